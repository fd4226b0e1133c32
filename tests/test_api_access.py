"""Who gets in: keys and their scopes, names of the server, pages from elsewhere; against the real API process."""

from __future__ import annotations

import base64
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_rig import Api, api_process, problem

from api.access import PROBES, READING_BY_POST, Access, address_of
from engine.api_keys import KeyFile, hashed, is_loopback
from engine.errors import Forbidden, NeedsKey
from engine.settings import Settings

OWN = "the-key-of-the-settings"
TEXT = {"Content-Type": "text/plain"}
ELSEWHERE = "https://dashboard.example"


class Guarded:
    """An API process that needs keys: `writer` and `reader` of the file, and one of the settings."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.file = api.settings.api_keys
        self.writer, self.reader = (self.file.add(name, scope) for name, scope in (("ci", "write"), ("eve", "read")))

    def ask(self, method: str, path: str, key: str | None = None, **more: Any) -> httpx.Response:
        headers = {**more.pop("headers", {}), **({"Authorization": f"Bearer {key}"} if key else {})}
        return self.api.http.request(method, path, headers=headers, **more)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    more = {"api_key": OWN, "cors_origins": [ELSEWHERE], "allowed_hosts": ["sae.example"], "rate_limit": 0}
    with api_process(tmp_path_factory.mktemp("guarded"), **more) as (api, _):
        yield Guarded(api)


@pytest.fixture(scope="module")
def routes(guarded: Guarded) -> list[tuple[str, str]]:
    """Method and path of every operation, with something for each parameter in the path."""
    document = guarded.ask("GET", "/schema/openapi.json", guarded.reader).json()
    paths = {path: path for path in ("/", "/schema", "/web/app.js", "/nothing/here")}
    for path in document["paths"]:
        paths[path] = path.replace("{layer}", "0").replace("{index}", "1").replace("{", "").replace("}", "")
    listed = [("get", path) for path in paths if path not in document["paths"]]
    listed += [(method, paths[path]) for path, item in document["paths"].items() for method in item]
    assert len(listed) > 30
    return listed


def test_without_a_key_nothing_but_the_probes_answers(guarded: Guarded, routes: list[tuple[str, str]]) -> None:
    for method, path in routes:
        answer = guarded.ask(method, path)
        if path in PROBES:
            assert answer.status_code in (200, 503), path
        else:
            assert "API key" in problem(answer, 401), path
            ways = answer.headers.get_list("www-authenticate", split_commas=False)
            assert [way.split()[0] for way in ways] == ["Bearer", "Basic"]


def test_a_key_that_may_read_reads_everything_and_writes_nothing(guarded: Guarded, routes: list[tuple[str, str]]) -> None:
    before = len(guarded.api.inbox.manifests())
    for method, path in routes:
        if method == "get":  # without their answers, some of which wait for an engine
            assert guarded.ask("HEAD", path, guarded.reader).status_code in (200, 404, 405), path
        elif path in READING_BY_POST:
            assert guarded.ask(method, path, guarded.reader).status_code == 415
        else:
            assert "may read" in problem(guarded.ask(method, path, guarded.reader), 403), path
    for path in ("/", "/schema", "/v1/status", "/v1/corpora", "/metrics"):
        assert guarded.ask("GET", path, guarded.reader).status_code == 200
    for path in ("/v1/corpora?name=a", "/v1/activations?name=a", "/v1/watch", "/v1/graph/"):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert guarded.ask(method, path, guarded.reader, content=b"text", headers=TEXT).status_code == 403, (method, path)
    assert len(guarded.api.inbox.manifests()) == before


@pytest.mark.parametrize("how", ["bearer", "password", "name", "settings"])
def test_a_key_that_may_write_writes_however_it_is_brought(guarded: Guarded, how: str) -> None:
    def basic(text: str) -> str:
        return f"Basic {base64.b64encode(text.encode()).decode()}"

    brought = {
        "bearer": f"bearer  {guarded.writer}",
        "password": basic(f"anyone:{guarded.writer}"),
        "name": basic(f"{guarded.writer}:"),
        "settings": f"Bearer {OWN}",
    }
    headers = {"Authorization": brought[how], **TEXT}
    assert guarded.api.http.post("/v1/corpora?name=a", content=b"text", headers=headers).status_code == 202


NO_KEYS = [
    "Bearer",
    "Bearer wrong",
    "Basic",
    "Basic %%%",
    "Basic /w==",
    "Basic OjE=",
    "Digest x",
    "sae_x",
    "Bearer \xff",
    "x" * 9_000,
]


@pytest.mark.parametrize("authorization", NO_KEYS)
def test_what_is_no_key_of_this_server_is_refused_without_repeating_it(guarded: Guarded, authorization: str) -> None:
    headers = {"Authorization": authorization.encode("latin-1")}
    answer = guarded.api.http.get("/v1/status", headers=headers)  # type: ignore[arg-type]
    assert "API key" in problem(answer, 401)
    assert "wrong" not in answer.text and "x" * 20 not in answer.text


def test_the_hash_of_a_key_is_no_key(guarded: Guarded) -> None:
    for text in (hashed(guarded.writer), hashed(guarded.writer).partition(":")[2], hashed(OWN)):
        problem(guarded.ask("GET", "/v1/status", text), 401)


def test_a_key_is_made_and_taken_back_while_the_server_runs(guarded: Guarded) -> None:
    made = guarded.file.add("late", "write")
    assert guarded.ask("GET", "/v1/status", made).status_code == 200
    guarded.file.remove("late")
    assert "removed" in problem(guarded.ask("GET", "/v1/status", made), 401)


def test_a_file_of_keys_that_can_not_be_read_lets_nobody_in_by_it(guarded: Guarded) -> None:
    path = guarded.file.path
    content = path.read_bytes()
    try:
        for broken in (b"{", b'{"format": 9, "keys": []}', b""):
            path.write_bytes(broken)
            problem(guarded.ask("GET", "/v1/status", guarded.writer), 401)
            assert guarded.ask("GET", "/v1/status", OWN).status_code == 200
        path.rename(path.with_suffix(".away"))
        problem(guarded.ask("GET", "/v1/status", guarded.writer), 401)
        problem(guarded.ask("GET", "/v1/status"), 401)
        path.with_suffix(".away").rename(path)
    finally:
        path.write_bytes(content)
    assert guarded.ask("GET", "/v1/status", guarded.writer).status_code == 200


def test_the_last_key_that_is_removed_leaves_a_server_closed(tmp_path: Path) -> None:
    access = Access(Settings(data_dir=tmp_path))
    assert access.key_of(headers()) is None
    KeyFile(tmp_path / "api-keys.json").add("only", "read")
    with pytest.raises(NeedsKey):
        access.key_of(headers())
    KeyFile(tmp_path / "api-keys.json").remove("only")
    with pytest.raises(NeedsKey):
        access.key_of(headers())


def test_keys_are_kept_as_hashes_in_a_file_of_their_owner(guarded: Guarded) -> None:
    content = guarded.file.path.read_text()
    assert stat.S_IMODE(guarded.file.path.stat().st_mode) == 0o600
    assert guarded.writer not in content and guarded.reader not in content and hashed(guarded.writer) in content
    assert OWN not in guarded.api.settings.model_dump_json() and hashed(OWN) in guarded.api.settings.model_dump_json()


def headers(**given: str) -> Any:
    from litestar.datastructures import Headers

    return Headers({name.replace("_", "-"): value for name, value in given.items()})


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:1234", True),
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("[::1]:8000", True),
        ("sae.example:80", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example:8000", False),
        ("localhost.evil.example", False),
        ("evil.example:127.0.0.1", False),
        ("0.0.0.0:8000", False),
        ("[::ffff:5.6.7.8]", False),
        ("", False),
    ],
)
def test_a_server_that_only_this_machine_reaches_answers_to_its_own_names_alone(guarded: Guarded, host: str, passes: bool) -> None:
    answer = guarded.ask("GET", "/v1/status", guarded.reader, headers={"Host": host})
    if passes:
        assert answer.status_code == 200
    else:
        assert answer.status_code in (400, 403) and "model" not in answer.text
        assert guarded.ask("GET", "/livez", headers={"Host": host}).status_code in (200, 400)


@pytest.mark.parametrize(
    ("sent", "passes"),
    [
        pytest.param({}, True, id="no browser"),
        pytest.param({"Origin": "{url}"}, True, id="our page"),
        pytest.param({"Origin": "{url}", "Sec-Fetch-Site": "same-origin"}, True, id="our page says so"),
        pytest.param({"Origin": "https://proxy.example", "Sec-Fetch-Site": "same-origin"}, True, id="our page behind a proxy"),
        pytest.param({"Origin": ELSEWHERE, "Sec-Fetch-Site": "cross-site"}, True, id="a page that is allowed"),
        pytest.param({"Origin": "https://evil.example"}, False, id="a page from elsewhere"),
        pytest.param({"Origin": "null"}, False, id="a page without an origin"),
        pytest.param({"Origin": "http://127.0.0.1:1"}, False, id="another port of this machine"),
        pytest.param({"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-site"}, False, id="another port says so"),
        pytest.param({"Sec-Fetch-Site": "cross-site"}, False, id="a page that hides where it is from"),
        pytest.param({"Origin": f"{ELSEWHERE}.evil.example"}, False, id="a name that begins like an allowed one"),
    ],
)
def test_nothing_is_written_for_a_page_from_elsewhere(guarded: Guarded, sent: dict[str, str], passes: bool) -> None:
    """A browser sends text/plain without asking first, and the password that it was given for us with it."""
    before = len(guarded.api.inbox.manifests())
    sent = {name: value.format(url=guarded.api.url) for name, value in sent.items()}
    answer = guarded.ask("POST", "/v1/corpora?name=a", guarded.writer, content=b"text", headers={**TEXT, **sent})
    assert answer.status_code == (202 if passes else 403), answer.text
    assert len(guarded.api.inbox.manifests()) == before + passes


def test_pages_from_elsewhere_read_nothing_unless_they_are_allowed(guarded: Guarded) -> None:
    for origin, allowed in ((ELSEWHERE, True), ("https://evil.example", False)):
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
        preflight = guarded.ask("OPTIONS", "/v1/status", headers=asked)
        answers = [guarded.ask("GET", "/v1/status", key, headers={"Origin": origin}) for key in (guarded.reader, None)]
        assert [answer.status_code for answer in (preflight, *answers)] == [204 if allowed else 403, 200, 401]
        for answer in (preflight, *answers):
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
            assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in guarded.ask("GET", "/v1/status", guarded.reader, headers={"Origin": ELSEWHERE}).headers.get_list("vary")
    assert "Authorization" in preflight.headers.get("access-control-allow-headers", "Authorization")


def test_every_answer_tells_browsers_to_do_nothing_but_show_it(guarded: Guarded) -> None:
    for path in (
        "/",
        "/schema",
        "/web/app.js",
        "/web/icon.svg",
        "/v1/status",
        "/v1/features/9/9",
        "/nothing",
        "/livez",
        "/metrics",
    ):
        for key in (guarded.reader, None):
            sent = guarded.ask("GET", path, key).headers
            assert (
                "default-src 'self'" in sent["content-security-policy"]
                and "frame-ancestors 'none'" in sent["content-security-policy"]
            )
            assert "unsafe" not in sent["content-security-policy"]
            assert (sent["x-content-type-options"], sent["x-frame-options"]) == ("nosniff", "DENY")
            assert (sent["referrer-policy"], sent["cross-origin-resource-policy"]) == ("same-origin", "same-origin")
            assert "server" not in sent


def test_an_open_port_answers_to_any_name_but_to_nobody_without_a_key(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, host="0.0.0.0")
    access = Access(settings)
    access.check_host(headers(host="whatever.example"))
    with pytest.raises(NeedsKey):
        access.key_of(headers())
    named = Access(settings.model_copy(update={"allowed_hosts": ["sae.example"]}))
    named.check_host(headers(host="sae.example"))
    with pytest.raises(Forbidden, match=r"evil\.example"):
        named.check_host(headers(host="evil.example"))


def test_who_asks_without_a_key_is_an_address_or_a_network_that_one_machine_has() -> None:
    assert address_of(("192.0.2.7", 1)) == "192.0.2.7"
    assert address_of(("2001:db8:1:2:3:4:5:6", 1)) == address_of(("2001:db8:1:2::9", 1)) == "2001:db8:1:2::/64"
    assert address_of(("fe80::1%eth0", 1)) == "fe80::/64"
    assert address_of(("::ffff:192.0.2.7", 1)) == "192.0.2.7"
    assert address_of(("unknown", 0)) == "unknown"
    assert address_of(None) == "local"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LocalHost"])
def test_what_only_this_machine_reaches_needs_no_key(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "0", "192.0.2.1", "localhost.example", "a.example", "::ffff:127.0.0.1"])
def test_what_others_may_reach_needs_a_key(host: str) -> None:
    assert not is_loopback(host)

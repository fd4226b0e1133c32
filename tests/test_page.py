"""The page in a real browser, over a run that goes on while it is looked at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from api_engine import Engine
from api_rig import RUN, Api, api_process, settings_for
from page_rig import VIEWS, Sight
from playwright.sync_api import Browser, Page, expect

from engine.analysis.worker import Worker
from engine.settings import Settings
from tests.chromium import chromium


@contextmanager
def analysis(settings: Settings) -> Iterator[None]:
    """The analysis worker, in this process."""
    stop = threading.Event()
    thread = threading.Thread(target=Worker(settings, stop).run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Engine]]:
    """A run with 600 tokens published and one corpus."""
    with api_process(tmp_path_factory.mktemp("page")) as (api, _), analysis(api.settings), closing(Engine(api.settings)) as engine:
        for _ in range(3):
            engine.count()
        api.post("/v1/corpora", b'{"text": "a"}\n{"text": "b"}\n', "application/x-ndjson", name="first-corpus")
        engine.publish()
        yield api, engine


@pytest.fixture
def sight(engine: tuple[Api, Engine], browser: Browser) -> Iterator[Sight]:
    engine[1].publish("idle")
    opened = Sight(browser, engine[0].url)
    yield opened
    opened.close()


def test_a_server_with_keys_takes_one_as_the_password_of_its_page(tmp_path: Path, browser: Browser) -> None:
    """For the page, its modules, its event stream; a key that may read uploads nothing."""
    with api_process(tmp_path, api_key="the-key-of-the-settings") as (api, _), closing(Engine(api.settings)) as engine:
        engine.count()
        engine.publish()
        key = api.settings.api_keys.add("reader", "read")
        with closing(Sight(browser, api.url, http_credentials={"username": "me", "password": key})) as sight:
            page = sight.open()
            expect(page.locator("#tokens")).to_have_text(f"{engine.state.tokens:,}")
            assert sight.wrong == []
            page.locator("input[type=file]").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
            expect(page.get_by_text("the API key reader may read")).to_be_visible()
        assert api.inbox.manifests() == []


def test_the_numbers_move_while_text_is_counted_without_a_reload(sight: Sight, engine: tuple[Api, Engine]) -> None:
    _, counting = engine
    page = sight.open()
    page.evaluate("window.sameDocument = true")
    tokens = counting.state.tokens
    for shown in ("#tokens", ".count"):
        expect(page.locator(shown)).to_have_text(f"{tokens:,}")
    counting.count(1000)
    counting.publish()
    for shown in ("#tokens", ".count"):
        expect(page.locator(shown)).to_have_text(f"{tokens + 1000:,}")
    expect(page.locator(".flow + .note")).to_contain_text(f"As of {tokens + 1000:,} tokens", timeout=30_000)
    assert page.evaluate("window.sameDocument") is True
    expect(page.locator(".corpora")).to_contain_text("first-corpus")
    expect(page.locator(".dead tbody tr")).to_have_count(3)
    expect(page.get_by_role("img", name="Features that pass from layer to layer")).to_be_visible()
    page.get_by_label("show").select_option("unseen_mass")
    expect(page.get_by_role("img", name="unseen pairs over the tokens counted, by layer pair")).to_be_visible()
    assert sight.wrong == []


def test_a_feature_that_is_looked_at_follows_the_count(sight: Sight, engine: tuple[Api, Engine]) -> None:
    _, counting = engine
    page = sight.open("/?feature=1:3")
    expect(page.locator(".panel h1")).to_have_text("1:3")
    expect(page.locator(".panel .figures")).to_contain_text(f"{int(counting.state.marginals[1].count[3]):,} tokens")
    link = page.get_by_role("link", name="Neuronpedia")
    expect(link).to_have_attribute("href", "https://www.neuronpedia.org/tiny/1-res/3")
    time.sleep(3)  # it is read again at most every three seconds
    counting.count(200)
    counting.publish()
    expect(page.locator(".panel .figures")).to_contain_text(f"{int(counting.state.marginals[1].count[3]):,} tokens")
    assert sight.wrong == []


def test_tags_in_tokens_and_document_names_are_shown_as_text(sight: Sight, engine: tuple[Api, Engine]) -> None:
    page = sight.open("/?feature=1:3")
    shown = page.locator(".contexts .context")
    documents = min(5, len(engine[1].rows))  # each context is of another one, with its strongest token marked
    expect(shown).to_have_count(documents)
    expect(page.locator(".contexts mark.peak")).to_have_count(documents)
    for one in shown.all():
        expect(one).to_contain_text("<b>")
        expect(one).to_contain_text("<i>")
    assert page.locator(".contexts .text b, .contexts i").count() == 0
    assert sight.wrong == []


def test_the_first_layer_has_no_earlier_neighbours_and_a_silent_feature_says_so(sight: Sight) -> None:
    page = sight.open("/?feature=0:5&measure=jaccard")
    expect(page.locator(".contexts")).to_contain_text("Feature 0:5 has not fired yet")
    expect(page.locator(".both")).to_contain_text("no pair there")
    expect(page.locator(".gates")).to_contain_text("no earlier one")
    assert sight.wrong == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        pytest.param("/?feature=9:1", "there is no layer 9: this run has layers 0 to 2", id="no-such-layer"),
        pytest.param("/?feature=1:99", "there is no feature 1:99", id="no-such-index"),
        pytest.param("/?feature=three", "write layer:index", id="not-a-feature"),
        pytest.param("/?view=graph&start=feature:9:1", "there is no layer 9", id="graph-of-no-such-layer"),
        pytest.param("/?view=graph&start=feature:", "write layer:index", id="graph-of-nothing"),
        pytest.param("/?view=graph&start=lineage:0:5", "has no lineage", id="no-lineage"),
        pytest.param("/?view=graph&start=gate:0:5", "layer 0 has no upstream layer", id="no-gate"),
        pytest.param("/?view=graph&start=prompt&prompt=+", "Write a prompt and run it", id="empty-prompt"),
    ],
)
def test_what_the_address_asks_for_in_vain_is_answered_with_a_sentence(sight: Sight, path: str, says: str) -> None:
    page = sight.open(path)
    expect(page.locator("main")).to_contain_text(says)


def test_an_address_with_nonsense_for_settings_shows_the_defaults(sight: Sight) -> None:
    page = sight.open("/?view=graph&k=many&hops=-1&measure=cosine&least=x&expand=,7&at=1,2&rank=up&start=everything")
    expect(page.get_by_label("pairs", exact=True)).to_have_value("80")
    expect(page.get_by_label("measure")).to_have_value("jaccard")
    expect(page.get_by_label("start from")).to_have_value("top")
    page = sight.open("/?view=nowhere")
    expect(page.locator(".view.overview")).to_be_visible()
    assert sight.wrong == []


def test_a_lost_connection_is_said_and_comes_back_by_itself(tmp_path: Path, browser: Browser) -> None:
    with api_process(tmp_path) as (api, redis), closing(Engine(api.settings)) as engine:
        engine.count()
        engine.publish()
        sight = Sight(browser, api.url)
        page = sight.open("/?view=feature&feature=1:3")
        redis.stop()
        expect(page.locator("#link")).to_contain_text("connection lost", timeout=15_000)
        expect(page.locator(".panel h1")).to_have_text("1:3")  # what was read stays
        redis.start()
        engine.count(100)
        engine.publish()
        expect(page.locator("#link")).to_have_text("live", timeout=15_000)
        expect(page.locator("#tokens")).to_have_text("300")
        expect(page.locator(".panel .figures")).to_contain_text(f"{int(engine.state.marginals[1].count[3]):,} tokens")
        sight.close()


def test_a_server_that_restarts_under_the_page_is_found_again(tmp_path: Path, browser: Browser) -> None:
    with api_process(tmp_path) as (api, _), closing(Engine(api.settings)) as engine:
        engine.count()
        engine.publish()
        sight = Sight(browser, api.url)
        page = sight.open("/?view=graph&start=feature:1:3&hops=1")
        nodes = page.locator(".node")
        expect(nodes.first).to_be_attached()
        shown = nodes.count()
        api.stop()
        expect(page.locator("#link")).to_contain_text("connection lost", timeout=15_000)
        assert nodes.count() == shown
        page.get_by_label("measure").select_option("sufficiency")  # asked for while nobody answers
        expect(page.locator(".said")).to_contain_text("does not answer")
        again = Api(settings_for(tmp_path, str(api.settings.redis_url)).model_copy(update={"port": int(api.url.rsplit(":", 1)[1])}))
        try:
            engine.count(100)
            engine.publish()
            expect(page.locator("#link")).to_have_text("live", timeout=20_000)
            expect(page.locator(".said")).to_contain_text("as of 300 tokens", timeout=15_000)
            expect(page.locator(".notice")).to_be_hidden()
        finally:
            again.stop()
            sight.close()


def test_numbers_that_have_not_moved_while_text_is_counted_are_called_old(sight: Sight, engine: tuple[Api, Engine]) -> None:
    _, counting = engine
    page = sight.open()
    counting.publisher.beat(counting.status("counting", queue_tokens=1000))
    expect(page.locator("#link")).to_contain_text("s old", timeout=15_000)
    counting.count(10)
    counting.publish()
    expect(page.locator("#link")).to_have_text("live")
    assert sight.wrong == []


def test_a_graph_says_that_newer_numbers_are_there_and_takes_them_when_asked(sight: Sight, engine: tuple[Api, Engine]) -> None:
    _, counting = engine
    page = sight.open("/?view=graph&start=feature:1:3&hops=1")
    tokens = counting.state.tokens
    expect(page.locator(".said")).to_contain_text(f"as of {tokens:,} tokens")
    counting.count(50)
    counting.publish()
    page.get_by_role("button", name="50 newer tokens: update").click()
    expect(page.locator(".said")).to_contain_text(f"as of {tokens + 50:,} tokens")
    assert sight.wrong == []


def test_an_empty_run_says_on_every_view_what_to_do_next(tmp_path: Path, browser: Browser) -> None:
    with api_process(tmp_path) as (api, _), analysis(api.settings), closing(Engine(api.settings)) as engine:
        engine.publish("idle")
        sight = Sight(browser, api.url)
        page = sight.open()
        expect(page.get_by_role("heading", name="Nothing has been counted yet")).to_be_visible()
        expect(page.locator(".start code")).to_contain_text(f"-H 'Content-Type: text/plain' '{api.url}/v1/corpora?name=mine'")
        for path in VIEWS[1:]:
            page = sight.open(path)
            expect(page.locator("main")).to_contain_text("Nothing has been counted yet")
            expect(page.locator("main a[href='/']")).to_be_visible()
        page.locator("main a[href='/']").click()
        with page.expect_file_chooser() as chosen:
            page.get_by_role("button", name="Choose a file").click()
        chosen.value.set_files({"name": "my text.txt", "mimeType": "text/plain", "buffer": b"some words"})
        expect(page.locator(".sent")).to_have_text("my text.txt: 1 document taken into my-text")
        expect(page.locator(".corpora")).to_contain_text("my-text")
        expect(page.get_by_role("heading", name="Nothing has been counted yet")).to_be_hidden()
        assert sight.wrong == []
        sight.close()


def test_files_are_taken_by_drag_and_drop_and_refused_with_the_servers_sentence(sight: Sight) -> None:
    page = sight.open()
    page.get_by_label("corpus name").fill("dropped")
    drop(page, "lines.jsonl", '{"text": "one"}\\n{"text": "two"}\\n')
    expect(page.locator(".sent")).to_contain_text("lines.jsonl: 2 documents taken into dropped")
    expect(page.locator(".corpora")).to_contain_text("dropped")
    drop(page, "notes.docx", "x")
    expect(page.locator(".sent .fault").first).to_contain_text("its name must end in .txt")
    assert sight.wrong == []
    drop(page, "broken.jsonl", '{"text": "one"}\\n{"text"\\n')
    expect(page.locator(".sent .fault").first).to_contain_text("line 2")


def drop(page: Page, name: str, text: str) -> None:
    made = f"const made = new DataTransfer(); made.items.add(new File(['{text}'], '{name}')); return made;"
    transfer = page.evaluate_handle(f"() => {{ {made} }}")
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event(".view.overview", kind, {"dataTransfer": transfer})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_at_the_width_of_a_phone(sight: Sight, scheme: str) -> None:
    sight.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    sight.page.set_viewport_size({"width": 360, "height": 740})
    for path in (*VIEWS, "/?feature=1:3&measure=mutual_information", "/?view=graph&start=feature:1:3&select=1:3"):
        page = sight.open(path)
        if "1:3" in path:
            expect(page.locator(".panel h1")).to_have_text("1:3")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    assert sight.wrong == []


def test_the_interface_page_lists_every_route_and_tries_one_with_no_network(sight: Sight, engine: tuple[Api, Engine]) -> None:
    sight.page.goto(sight.url + "/schema")
    operation = sight.page.locator("details.operation", has_text="/v1/status")
    operation.locator("summary").click()
    operation.get_by_role("button", name="Try it").click()
    expect(operation.locator("pre").last).to_contain_text(f'"{RUN.model}"')
    paths = engine[0].http.get("/schema/openapi.json").json()["paths"]
    expect(sight.page.locator("details.operation")).to_have_count(sum(len(item) for item in paths.values()))
    assert sight.wrong == []

"""The page in a real browser, over a run that goes on while it is looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_engine import Engine
from api_rig import Api, api_process
from playwright.sync_api import Browser, Page, expect

from tests.chromium import chromium


class Run:
    """A run with 600 tokens published and one corpus, and a browser page that remembers what went wrong in it."""

    def __init__(self, api: Api, engine: Engine, page: Page) -> None:
        self.api, self.engine, self.page = api, engine, page
        self.wrong: list[str] = []
        page.on("console", lambda message: self.wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(api.url) else self.wrong.append(request.url))

    def open(self, path: str = "/") -> Page:
        self.engine.publish("idle")
        self.page.goto(self.api.url + path)
        expect(self.page.locator("#link")).to_have_text("live")
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Engine]]:
    with api_process(tmp_path_factory.mktemp("page")) as (api, _):
        engine = Engine(api.settings)
        for _ in range(3):
            engine.count()
        api.post("/v1/corpora", b'{"text": "a"}\n{"text": "b"}\n', "application/x-ndjson", name="first-corpus")
        engine.publish()
        yield api, engine
        engine.close()


@pytest.fixture
def run(engine: tuple[Api, Engine], browser: Browser) -> Iterator[Run]:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    yield Run(*engine, page)
    page.close()


def test_the_token_count_moves_without_a_reload(run: Run) -> None:
    page = run.open()
    page.evaluate("window.sameDocument = true")
    tokens = run.engine.state.tokens
    expect(page.locator("#tokens")).to_have_text(f"{tokens:,}")
    run.engine.count(1000)
    run.engine.publish()
    expect(page.locator("#tokens")).to_have_text(f"{tokens + 1000:,}")
    assert page.evaluate("window.sameDocument") is True
    expect(page.locator("#corpora")).to_contain_text("first-corpus")
    expect(page.locator("#layers tbody tr")).to_have_count(3)
    assert run.wrong == []


def test_a_lookup_shows_the_feature_its_text_and_its_neighbours_both_ways(run: Run) -> None:
    page = run.open()
    page.get_by_role("textbox", name="Feature").fill("1:3")
    page.get_by_role("button", name="Look up").click()
    found = page.locator("#found")
    expect(found.locator("h3")).to_have_text("1:3")
    expect(found).to_contain_text(f"{int(run.engine.state.marginals[1].count[3]):,} tokens")
    expect(found.locator(".both li").first).to_contain_text("both")
    assert found.locator("a[data-feature^='0:']").count() > 0 and found.locator("a[data-feature^='2:']").count() > 0
    expect(found.locator(".context")).to_have_count(3)  # each of another document, each with its strongest token marked
    expect(found.locator(".context mark.peak")).to_have_count(3)
    for shown in found.locator(".context").all():
        expect(shown).to_contain_text("<b>")  # text of a corpus is shown as text, whatever it holds
        expect(shown).to_contain_text("<i>")  # and so is the name of a document
    assert found.locator(".context b, .context i").count() == 0
    assert page.url.endswith("/?feature=1:3&measure=jaccard")
    assert run.wrong == []


def test_another_measure_and_a_neighbour_change_the_address_and_back_returns(run: Run) -> None:
    page = run.open("/?feature=1:3&measure=pearson")
    expect(page.locator("#found h3")).to_have_text("1:3")
    expect(page.locator("#measure")).to_have_value("pearson")
    page.locator("#measure").select_option("lift")
    expect(page.locator("#found .track").first).to_have_attribute("aria-label", re.compile("^lift "))
    assert page.url.endswith("measure=lift")
    page.locator("#found a[data-feature^='2:']").first.click()
    expect(page.locator("#found h3")).not_to_have_text("1:3")
    page.go_back()
    expect(page.locator("#found h3")).to_have_text("1:3")
    assert run.wrong == []


def test_the_first_layer_has_no_earlier_neighbours_and_a_silent_feature_says_so(run: Run) -> None:
    page = run.open("/?feature=0:5&measure=jaccard")
    expect(page.locator("#found .context")).to_have_text("feature 0:5 never fired")
    expect(page.locator("#found .both")).to_contain_text("no pair there")
    assert run.wrong == []


def test_an_unknown_feature_is_answered_with_the_servers_sentence(run: Run) -> None:
    page = run.open("/?feature=9:1")
    expect(page.locator("#found")).to_have_text("there is no layer 9: this run has layers 0 to 2")


def test_any_feature_that_fires_is_found_by_a_click(run: Run) -> None:
    page = run.open()
    page.get_by_role("button", name="Any feature that fires").click()
    expect(page.locator("#found h3")).to_be_visible()
    assert run.wrong == []


def test_a_lost_connection_is_said_and_comes_back_by_itself(tmp_path: Path, browser: Browser) -> None:
    with api_process(tmp_path) as (api, redis):
        engine = Engine(api.settings)
        engine.count()
        engine.publish()
        page = Run(api, engine, browser.new_page()).open()
        redis.stop()
        expect(page.locator("#link")).to_contain_text("connection lost", timeout=15_000)
        redis.start()
        engine.count(100)
        engine.publish()
        expect(page.locator("#link")).to_have_text("live", timeout=15_000)
        expect(page.locator("#tokens")).to_have_text("300")
        page.close()
        engine.close()


def test_numbers_that_have_not_moved_while_text_is_counted_are_called_old(run: Run) -> None:
    page = run.open()
    run.engine.publisher.beat(run.engine.status("counting", queue_tokens=1000))
    expect(page.locator("#link")).to_contain_text("s old", timeout=15_000)
    run.engine.count(10)
    run.engine.publish()
    expect(page.locator("#link")).to_have_text("live")
    assert run.wrong == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_at_the_width_of_a_phone(run: Run, scheme: str) -> None:
    run.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    run.page.set_viewport_size({"width": 360, "height": 740})
    page = run.open("/?feature=1:3&measure=mutual_information")
    expect(page.locator("#found h3")).to_have_text("1:3")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert run.wrong == []


def test_the_interface_page_lists_every_route_and_tries_one_with_no_network(run: Run) -> None:
    run.page.goto(run.api.url + "/schema")
    operation = run.page.locator("details.operation", has_text="/v1/status")
    operation.locator("summary").click()
    operation.get_by_role("button", name="Try it").click()
    expect(operation.locator("pre").last).to_contain_text('"tiny-model"')
    paths = run.api.http.get("/schema/openapi.json").json()["paths"]
    expect(run.page.locator("details.operation")).to_have_count(sum(len(item) for item in paths.values()))
    assert run.wrong == []

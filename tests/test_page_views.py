"""Every view of the page in a real browser, over the bundled model: controls do what they say, numbers are those of the API."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from page_rig import VIEWS, Sight
from playwright.sync_api import Browser, Locator, Page, expect
from rich.text import Text

from api import findings
from api.client import Client
from api.console import SafeConsole
from engine.demo.text import CORPORA, demo_documents, sample_documents
from tests.chromium import chromium
from tests.service import Service, eventually, serving

HOSTILE = "<img src=x onerror=alert(1)> zebra </script><script>alert(2)</script> zebra &lt;b&gt; zebra \u202e zebra {{7*7}}. "
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\x1b[31m"
PROMPT = "Returns an array of floats."


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The demo's sample, as much text again in short documents (so that intervals and gates are there), and a hostile text."""
    with serving(tmp_path_factory.mktemp("views")) as running:
        for corpus in CORPORA:
            running.feed([row.text for row in sample_documents() if row.package == corpus], corpus)
        for corpus in CORPORA:
            running.feed([text[:300] for text in itertools.islice(demo_documents(corpus), 150)], corpus)
        running.until_counted(running.feed([HOSTILE * 3 + ESCAPES] * 4, "hostile", wait="visible"))
        eventually("a snapshot of all of it", lambda: running.get("/v1/status")["lag_tokens"] == 0)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def sight(service: Service, browser: Browser) -> Iterator[Sight]:
    opened = Sight(browser, str(service.http.base_url).rstrip("/"))
    yield opened
    assert opened.wrong == []
    opened.close()


@pytest.fixture(scope="module")
def busy(service: Service) -> str:
    """A feature of layer 3 that fires a lot, with neighbours both ways."""
    items = service.get("/v1/edges", pair="3-4", limit=1)["items"]
    return items[0]["up"]


def neighbors(service: Service, feature: str, direction: str, **query: Any) -> list[Any]:
    return service.get(f"/v1/features/{feature.replace(':', '/')}/neighbors", direction=direction, **query)["neighbors"]


def nodes(page: Page) -> set[str]:
    return set(page.locator(".node").evaluate_all("all => all.map((one) => one.dataset.feature)"))


def shown_edges(page: Page) -> set[tuple[str, str]]:
    """The pairs in the table below the graph."""
    rows = page.locator(".edge-table tbody tr")
    return {tuple(row[:2]) for row in rows.evaluate_all("all => all.map((row) => [...row.cells].map((cell) => cell.textContent))")}


def percent(share: float) -> str:
    """As the page writes it."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.1 else f"{100 * share:.2f} %"


def ends(edges: Iterable[Mapping[str, Any]]) -> set[tuple[str, str]]:
    return {(one["up"], one["down"]) for one in edges}


def graph(page: Page) -> None:
    """Wait until a graph stands."""
    expect(page.locator(".said")).to_contain_text(re.compile(r"^\d.* as of "))


# A feature


def test_the_panel_shows_the_numbers_of_the_api(sight: Sight, service: Service, busy: str) -> None:
    record = service.get(f"/v1/features/{busy.replace(':', '/')}")
    page = sight.open(f"/?feature={busy}")
    figures = page.locator(".panel .figures")
    expect(figures).to_contain_text(f"{record['count']:,} tokens")
    expect(figures).to_contain_text(percent(record["density"]))
    expect(figures).to_contain_text(f"{record['max']:.1f}" if record["max"] >= 10 else f"{record['max']:.3f}")
    for direction, column in (("upstream", 0), ("downstream", 1)):
        rows = page.locator(".both > div").nth(column).locator(".neighbors li")
        wanted = neighbors(service, busy, direction, k=8)
        expect(rows).to_have_count(len(wanted))
        for row, one in zip(rows.all(), wanted, strict=True):
            assert row.locator("a").text_content() == one["feature"]
            assert row.locator(".value").text_content() == f"{one['estimate']:.3f}"
            assert row.locator(".support").text_content() == f"{one['counts']['joint']:,}"
            if one["lower"] is not None:
                bounds = f"Jaccard {one['estimate']:.3f}, 95 %: {one['lower']:.3f} to {one['upper']:.3f}"
                expect(row.get_by_role("img")).to_have_attribute("aria-label", re.compile("^" + re.escape(bounds)))
    counts = np.trim_zeros(record["histogram"]["counts"])
    columns = page.locator(".strengths .column")
    expect(columns).to_have_count(len(counts))
    heights = columns.evaluate_all("all => all.map((one) => Number(one.getAttribute('height')))")
    tall = [max(heights) * many / max(counts) for many in counts]
    assert heights == pytest.approx(tall, abs=1)  # one that is not 0 is 1 pixel at least
    expect(page.get_by_label("Activations by strength")).to_contain_text(f"{sum(counts):,} activations")
    strongest = service.get(f"/v1/features/{busy.replace(':', '/')}/contexts", k=1)["contexts"][0]
    first = page.locator(".contexts .context").first
    expect(first.locator(".peak")).to_have_text(re.sub(r"\s*\n\s*", " ⏎ ", strongest["tokens"][strongest["position"]]))
    expect(first.locator(".peak")).to_have_attribute("title", re.compile(r"^\d"))


def test_a_gates_truth_table_is_that_of_the_api(sight: Sight, service: Service) -> None:
    child = service.get("/v1/gates", sort="support", limit=1)["items"][0]["child"]
    one = service.get(f"/v1/features/{child.replace(':', '/')}/gates", cells="true")["items"][0]
    names = [parent["feature"] for parent in one["parents"]]
    page = sight.open(f"/?feature={child}")
    table = page.locator(".gates .truth").first
    expect(table.locator("thead th")).to_have_text([*names, f"{child} fires", "on", "of tokens"])
    for at, row in enumerate(table.locator("tbody tr").all()):
        silent, fires = one["cells"][2 * at : 2 * at + 2]
        lamps = row.locator(".lamp").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
        assert lamps == ["active" if name in silent["active"] else "silent" for name in names]
        assert ("holds" in (row.get_attribute("class") or "")) is silent["holds"]
        assert row.locator("td").nth(-2).text_content() == f"{fires['tokens']:,}"
        assert row.locator("td").nth(-1).text_content() == f"{silent['tokens'] + fires['tokens']:,}"


def test_lineage_histogram_and_relations_are_those_of_the_api(sight: Sight, service: Service) -> None:
    lineage = service.get("/v1/lineages", limit=1)["items"][0]
    chain = [one["feature"] for one in lineage["features"]]
    page = sight.open(f"/?feature={chain[2]}")
    strip = page.get_by_role("group", name=f"Lineage of {chain[2]}")
    expect(strip.locator("a")).to_have_count(len(chain) - 1)
    assert strip.locator("a text, g text").all_text_contents() == chain
    histogram = page.get_by_role("img", name=re.compile("features by Jaccard of their best partner"))
    layer = int(chain[2].split(":")[0])
    found = next(one for one in service.get("/v1/histograms", measure="jaccard")["items"] if one["pair"][0] == layer)
    expect(histogram).to_have_attribute("aria-label", re.compile(f"^{found['up']['live']} features"))
    assert histogram.locator("rect").count() == len(found["up"]["counts"])
    strip.locator("a").last.click()
    expect(page.locator(".panel h1")).to_have_text(chain[-1])


def test_measure_and_ranking_of_the_neighbours_and_the_way_back(sight: Sight, service: Service, busy: str) -> None:
    page = sight.open(f"/?feature={busy}")
    first = page.locator(".both > div").nth(1).locator(".neighbors a").first
    page.get_by_label("neighbours by").select_option("sufficiency")
    expect(first).to_have_text(neighbors(service, busy, "downstream", measure="sufficiency", k=8)[0]["feature"])
    page.get_by_label("ranked by").select_option("estimate")
    expect(first).to_have_text(neighbors(service, busy, "downstream", measure="sufficiency", k=8, rank="estimate")[0]["feature"])
    assert page.url.endswith(f"/?view=feature&feature={busy}&measure=sufficiency&rank=estimate")
    name = first.text_content() or ""
    first.click()
    expect(page.locator(".panel h1")).to_have_text(name)
    page.go_back()
    expect(page.locator(".panel h1")).to_have_text(busy)
    expect(page.get_by_label("neighbours by")).to_have_value("sufficiency")
    page.get_by_role("button", name="Any feature that fires").click()
    expect(page.locator(".panel h1")).not_to_have_text(busy)
    expect(page.locator(".panel .contexts mark.peak").first).to_be_visible()


def test_a_hostile_text_is_shown_as_text_wherever_it_appears(sight: Sight, service: Service) -> None:
    page = sight.open("/?view=search&q=onerror")
    first = page.locator(".results .context").first
    expect(first).to_contain_text("<img src=x onerror=alert(1)>")
    first.get_by_role("button", name="whole window").click()
    expect(first).to_contain_text("</script><script>alert(2)</script>")
    expect(first).to_contain_text("&lt;b&gt;")
    page = sight.open(f"/?view=graph&start=prompt&prompt={'%3Cimg%20src=x%20onerror=alert(1)%3E%3C/script%3E'}")
    graph(page)
    assert "".join(page.locator(".tokens .token").all_text_contents()) == "<img src=x onerror=alert(1)></script>"
    assert page.locator("main img, main script").count() == 0


def test_a_hostile_text_does_nothing_to_a_terminal(service: Service) -> None:
    """The demo prints contexts as these."""
    with Client(str(service.http.base_url)) as client:
        found = client.get("/v1/search", q="owned")["items"][0]
        layer, index = found["feature"].split(":")
        contexts = client.get(f"/v1/features/{layer}/{index}/contexts", k=8)["contexts"]
    tokens = next(context["tokens"] for context in contexts if "\x1b" in "".join(context["tokens"]))
    shown = io.StringIO()
    SafeConsole(file=shown, width=10_000).print(Text("".join(tokens)), findings._context_line(tokens, len(tokens) - 5, "1 and 2"))
    assert "␛[2J␛]0;owned" in shown.getvalue()
    assert {character for character in shown.getvalue() if not character.isprintable()} <= {"\n"}


# The graph


def test_a_graph_of_a_feature_has_the_neighbours_that_the_controls_ask_for(sight: Sight, service: Service, busy: str) -> None:
    page = sight.open(f"/?view=graph&start=feature:{busy}&hops=1&least=0")

    def wanted(**query: Any) -> set[str]:
        return {busy} | {one["feature"] for side in ("upstream", "downstream") for one in neighbors(service, busy, side, **query)}

    def becomes(names: set[str]) -> None:
        eventually(f"the graph has the nodes {sorted(names)}", lambda: nodes(page) == names, 10)

    becomes(wanted(k=4))
    page.get_by_label("k", exact=True).fill("7")
    page.get_by_label("k", exact=True).blur()
    becomes(wanted(k=7))
    page.get_by_label("rank by").select_option("estimate")
    becomes(wanted(k=7, rank="estimate"))
    page.get_by_label("joint tokens").fill("200")
    page.get_by_label("joint tokens").press("Enter")
    becomes(wanted(k=7, rank="estimate", min_support=200))
    page.get_by_label("measure").select_option("pearson")
    page.get_by_label("at least").fill("0.3")
    page.get_by_label("at least").press("Enter")
    page.get_by_label("measure").focus()
    asked = {"k": 7, "measure": "pearson", "min_support": 200}
    strong = [one for side in ("upstream", "downstream") for one in neighbors(service, busy, side, **asked)]
    becomes({busy} | {one["feature"] for one in strong if one["estimate"] >= 0.3})
    page.get_by_label("hops").fill("2")
    page.get_by_label("hops").press("Enter")
    expect(page.locator(".node")).not_to_have_count(len(nodes(page)))
    assert "hops=2" in page.url and "measure=pearson" in page.url and "least=0.3" in page.url


def test_a_click_expands_a_node_and_the_address_restores_all_of_it(sight: Sight, service: Service, busy: str) -> None:
    page = sight.open(f"/?view=graph&start=feature:{busy}&hops=1&k=3&least=0")
    graph(page)
    other = neighbors(service, busy, "downstream", k=3)[0]["feature"]
    node(page, other).click()
    expect(page.locator(".side h1")).to_have_text(other)
    added = {one["feature"] for side in ("upstream", "downstream") for one in neighbors(service, other, side, k=3)}
    eventually(f"{sorted(added)} are in the graph", lambda: added <= nodes(page), 10)
    grown = nodes(page)
    page.get_by_role("button", name="zoom in").click()
    drag(page, 60, 40)
    expect(page).to_have_url(re.compile(r"at=-?\d+,-?\d+,[\d.]+"))
    page.wait_for_timeout(600)  # the movement comes to rest, and with it the address
    before, link = state(page), page.url
    again = sight.open(link.removeprefix(sight.url))
    expect(again.locator(".side h1")).to_have_text(other)
    expect(again.locator(".node")).to_have_count(len(grown))
    after = state(again)
    assert after["nodes"] == before["nodes"]
    assert after["pressed"] == before["pressed"] == [other]
    assert all(abs(a - b) < 2 for a, b in zip(after["look"], before["look"], strict=True)), (before["look"], after["look"])
    again.get_by_role("button", name="Collapse").click()
    expect(again.locator(".node")).not_to_have_count(len(grown))
    again.get_by_role("button", name="Close the panel").press("Escape")
    expect(again.locator(".side")).to_be_hidden()


def state(page: Page) -> dict[str, Any]:
    """Where everything stands once it is painted: the transform of the nodes, and each node's own place."""
    return page.evaluate(
        """async () => {
          const frame = () => new Promise((done) => requestAnimationFrame(done));
          await frame();  // what was asked for is painted in this one, unless the stage had no size before it
          await frame();
          const { a, e, f } = new DOMMatrix(document.querySelector(".nodes").style.transform);
          const all = [...document.querySelectorAll(".node")];
          return {
            look: [a, e, f],
            nodes: Object.fromEntries(all.map((one) => [one.dataset.feature, one.style.left + " " + one.style.top])),
            pressed: all.filter((one) => one.ariaPressed === "true").map((one) => one.dataset.feature),
          };
        }"""
    )


def node(page: Page, feature: str) -> Locator:
    return page.locator(f".node[data-feature='{feature}']")


def drag(page: Page, x: int, y: int) -> None:
    box = page.locator(".stage").bounding_box()
    assert box
    page.mouse.move(box["x"] + 30, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 30 + x, box["y"] + 60 + y, steps=3)
    page.mouse.up()


def test_the_graph_pans_zooms_and_shows_all_by_pointer_wheel_and_buttons(sight: Sight, busy: str) -> None:
    page = sight.open(f"/?view=graph&start=feature:{busy}")
    graph(page)

    def look() -> list[float]:
        return state(page)["look"]

    fitted = look()
    drag(page, 100, 50)
    assert [round(a - b) for a, b in zip(look(), fitted, strict=True)] == [0, 100, 50]
    page.mouse.wheel(0, -300)
    assert look()[0] > fitted[0]
    page.get_by_role("button", name="zoom out").click()
    page.get_by_role("button", name="show all").click()
    assert all(abs(a - b) < 0.01 for a, b in zip(look(), fitted, strict=True))


def test_the_graph_is_walked_by_keyboard(sight: Sight, service: Service, busy: str) -> None:
    page = sight.open(f"/?view=graph&start=feature:{busy}&hops=1&k=3&least=0")
    graph(page)
    node(page, busy).focus()
    page.keyboard.press("ArrowRight")
    best = max(neighbors(service, busy, "downstream", k=3), key=lambda one: one["estimate"])["feature"]
    expect(node(page, best)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    expect(node(page, busy)).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    focused = page.locator(".side h1").text_content() or ""
    assert focused.split(":")[0] == str(int(busy.split(":")[0]) - 1)
    expect(node(page, focused)).to_be_focused()
    expect(node(page, focused)).to_have_attribute("aria-pressed", "true")


def test_graphs_of_certain_pairs_a_lineage_and_a_gate(sight: Sight, service: Service) -> None:
    page = sight.open("/?view=graph")
    graph(page)
    page.get_by_text("Edges as a table").click()
    assert shown_edges(page) == ends(service.get("/v1/edges", limit=80)["items"])
    page.get_by_label("pairs", exact=True).fill("15")
    page.get_by_label("pairs", exact=True).press("Enter")
    expect(page.locator(".edge-table tbody tr")).to_have_count(15)
    lineage = service.get("/v1/lineages", limit=1)["items"][0]
    begin(page, "lineage", lineage["features"][0]["feature"])
    expect(page.locator(".node")).to_have_count(lineage["length"])
    assert shown_edges(page) == ends(lineage["links"])
    gate = service.get("/v1/gates", limit=1)["items"][0]
    begin(page, "gate", gate["child"])
    expect(page.locator(".said")).not_to_contain_text("Reading")
    assert {(parent["feature"], gate["child"]) for parent in gate["parents"]} <= shown_edges(page)
    expect(node(page, gate["child"])).to_have_attribute("aria-label", re.compile("a gate"))


def test_a_community_of_the_overview_is_a_graph_in_its_colour(sight: Sight, service: Service) -> None:
    listed = service.get("/v1/communities", sort="stability", limit=8)
    page = sight.open()
    links = page.locator(".groups .id")
    expect(links).to_have_text([one["id"] for one in listed["items"]])
    links.first.click()
    first = listed["items"][0]
    expect(page.locator(".node")).to_have_count(first["size"])
    members = service.get(f"/v1/communities/{first['id']}")
    assert nodes(page) == {one["feature"] for one in members["features"]}
    assert shown_edges(page) == ends(members["edges"])
    expect(page.locator(".legend-box .chip")).to_have_text(first["id"])
    feature = first["top"][0]
    expect(node(page, feature)).to_have_attribute("aria-label", re.compile(f"community {first['id']}"))
    node(page, feature).click()
    expect(page.locator(".side .community")).to_contain_text(f"community {first['id']}")


def begin(page: Page, kind: str, of: str) -> None:
    page.get_by_label("start from").select_option(kind)
    page.get_by_label("start", exact=True).fill(of)
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page).to_have_url(re.compile(f"start={kind}:{of}"))


def test_a_prompts_graph_narrows_to_a_token_and_says_what_is_wrong_with_a_prompt(sight: Sight, service: Service) -> None:
    page = sight.open("/?view=graph")
    page.get_by_label("start from").select_option("prompt")
    expect(page.locator(".said")).to_contain_text("Write a prompt and run it")
    page.get_by_role("textbox", name="prompt").fill(PROMPT)
    page.get_by_role("textbox", name="prompt").press("Enter")
    graph(page)
    answer = service.http.post("/v1/graph", json={"prompt": PROMPT, "min_value": 0.05}).json()
    assert page.locator(".token").all_text_contents() == answer["tokens"]
    expect(page.locator(".node")).to_have_count(len(answer["nodes"]))
    page.get_by_label("per layer").fill("3")
    page.get_by_label("per layer").press("Enter")
    few = service.http.post("/v1/graph", json={"prompt": PROMPT, "min_value": 0.05, "per_layer": 3}).json()
    expect(page.locator(".node")).to_have_count(len(few["nodes"]))
    page.get_by_label("per layer").fill("20")
    page.get_by_label("per layer").press("Enter")
    page.get_by_role("button", name="token 2:").click()
    narrow = service.http.post("/v1/graph", json={"prompt": PROMPT, "min_value": 0.05, "token": 2}).json()
    expect(page.locator(".node")).to_have_count(len(narrow["nodes"]))
    assert nodes(page) == {one["feature"] for one in narrow["nodes"]}
    assert "token=2" in page.url
    page.get_by_role("textbox", name="prompt").fill("word " * 400)
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".said")).to_contain_text("256")
    assert any("413" in said or "422" in said for said in sight.wrong)
    sight.wrong.clear()  # the browser reports refused requests, as it should


# Search, compare, overview


def test_search_finds_features_by_a_word_and_opens_one_by_its_name(sight: Sight, service: Service, busy: str) -> None:
    page = sight.open()
    page.keyboard.press("/")
    page.keyboard.type("array")
    page.keyboard.press("Enter")
    found = service.get("/v1/search", q="array")
    expect(page.locator(".found")).to_contain_text(f"{found['total']:,} features with “array”")
    expect(page.locator(".results .id")).to_have_text([one["feature"] for one in found["items"]])
    expect(page.locator(".results .context").first).to_contain_text(re.compile("array", re.IGNORECASE))
    page.get_by_role("button", name="More").click()
    expect(page.locator(".results > li")).to_have_count(40)
    page.get_by_label("word or feature").fill("xyzzyx")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".found")).to_contain_text("No feature's strongest contexts contain “xyzzyx”")
    page.get_by_label("Feature or word").fill(busy)
    page.get_by_label("Feature or word").press("Enter")
    expect(page.locator(".panel h1")).to_have_text(busy)


def test_compare_shows_what_differs_between_two_corpora(sight: Sight, service: Service) -> None:
    page = sight.open("/?view=compare&a=numeric-docs&b=python-docs")
    answer = service.get("/v1/compare", a="numeric-docs", b="python-docs", limit=20)
    rows = page.locator(".differences li:not(.key)")
    expect(page.locator(".found")).to_contain_text(f"{answer['different']:,} of {answer['family']:,} features differ for certain")
    expect(rows.locator(".id")).to_have_text([one["feature"] for one in answer["items"]])
    page.get_by_label("layer").select_option("3")
    expect(rows.locator(".id").first).to_have_text(re.compile("^3:"))
    page.get_by_label("first").select_option("hostile")
    page.get_by_label("second").select_option("numeric-docs")
    expect(page).to_have_url(re.compile("a=hostile&b=numeric-docs"))
    page.get_by_label("first").select_option("numeric-docs")
    expect(page).to_have_url(re.compile("a=numeric-docs&b=hostile"))
    page.get_by_label("second").select_option("python-docs")
    page.get_by_label("what").select_option("edges")
    page.get_by_label("layers").select_option("3-4")
    page.get_by_label("measure").select_option("necessity")
    edges = service.get("/v1/compare/edges", a="numeric-docs", b="python-docs", up=3, down=4, measure="necessity", limit=20)
    expect(page.locator(".found")).to_contain_text(f"{edges['family']:,} watched pairs")
    expect(page.locator(".found")).to_contain_text("necessity")
    expect(rows.locator(".id")).to_have_text([f"{one['up']} → {one['down']}" for one in edges["items"]])
    page.get_by_role("button", name="More").click()
    expect(rows).to_have_count(40)


def test_the_overview_shows_flow_and_curves_as_asked(sight: Sight, service: Service) -> None:
    page = sight.open()
    flow = page.get_by_role("img", name="Features that pass from layer to layer")
    shares = [pair["passed"] for pair in service.get("/v1/flow")["pairs"]]
    expect(flow.locator(".passes")).to_have_text([percent(one["live"]["share"]) for one in shares])
    page.get_by_role("button", name="all", exact=True).click()
    expect(flow.locator(".passes").nth(1)).to_have_text(percent(shares[1]["all"]["share"]))
    page.get_by_label("passes by").select_option("jaccard")
    page.get_by_label("at least").fill("0.7")
    page.get_by_label("at least").press("Enter")
    stricter = service.get("/v1/flow", measure="jaccard", threshold=0.7)["pairs"]
    expect(flow.locator(".passes").last).to_have_text(percent(stricter[-1]["passed"]["all"]["share"]))
    for curve in ("interval_share", "median_width", "unseen_mass", "list_change", "dead", "split_half_rbo"):
        page.get_by_label("show").select_option(curve)
        expect(page.locator(".curves .series")).to_have_count(7 if curve == "dead" else 6)
    again = sight.open(page.url.removeprefix(sight.url))
    expect(again.get_by_label("at least")).to_have_value("0.7")
    expect(again.get_by_role("button", name="all", exact=True)).to_have_attribute("aria-pressed", "true")


# Keeping, and everybody


def saved(page: Page, name: str) -> bytes:
    page.locator(".save summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=name, exact=True).click()
    return Path(download.value.path()).read_bytes()


@pytest.mark.parametrize("path", ["/", "/?view=graph", "/?view=feature&feature=BUSY", "/?view=search&q=array", "/?view=compare"])
def test_a_view_is_kept_as_a_picture(sight: Sight, busy: str, path: str) -> None:
    page = sight.open(path.replace("BUSY", busy))
    expect(page.locator("main")).to_contain_text(re.compile(r"\d:\d|As of"))
    drawn = ElementTree.fromstring(saved(page, "Picture (SVG)"))
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg" and float(drawn.attrib["width"]) > 100
    assert "".join(drawn.itertext()).count(":") > 3
    picture = saved(page, "Picture (PNG)")
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 5_000


def test_the_numbers_of_a_view_are_kept_as_csv(sight: Sight, service: Service, busy: str) -> None:
    page = sight.open(f"/?feature={busy}")
    expect(page.locator(".neighbors li").first).to_be_visible()
    rows = list(csv.DictReader(io.StringIO(saved(page, "Later neighbours (CSV)").decode())))
    wanted = neighbors(service, busy, "downstream", k=8)
    assert [(row["neighbor"], float(row["estimate"]), int(row["joint"])) for row in rows] == [
        (one["feature"], one["estimate"], one["counts"]["joint"]) for one in wanted
    ]
    page = sight.open("/?view=graph")
    graph(page)
    edges = list(csv.DictReader(io.StringIO(saved(page, "Edges (CSV)").decode())))
    assert ends(edges) == ends(service.get("/v1/edges", limit=80)["items"])
    page = sight.open("/?view=compare")
    expect(page.locator(".differences li").nth(1)).to_be_visible()
    assert b"difference" in saved(page, "Differences (CSV)")
    page = sight.open()
    expect(page.get_by_role("img", name="Features that pass")).to_be_visible()
    flow = list(csv.DictReader(io.StringIO(saved(page, "Flow (CSV)").decode())))
    assert [int(row["passed"]) for row in flow] == [pair["passed"]["all"]["count"] for pair in service.get("/v1/flow")["pairs"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_problem(sight: Sight, busy: str, scheme: str) -> None:
    sight.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    axe = Axe()
    for path in (*VIEWS, f"/?feature={busy}", f"/?view=graph&start=feature:{busy}&select={busy}", "/?view=search&q=array"):
        page = sight.open(path)
        page.wait_for_timeout(600)  # what is read first stands by then
        page.evaluate(axe.axe_script)
        found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(one["id"], [node["html"][:160] for node in one["nodes"][:3]]) for one in serious] == [], path


def test_narrow_and_wide_every_view_fits(sight: Sight, busy: str) -> None:
    for width in (390, 1440):
        sight.page.set_viewport_size({"width": width, "height": 844})
        for path in (*VIEWS, f"/?feature={busy}", f"/?view=graph&start=prompt&prompt={PROMPT}", "/?view=search&q=array"):
            page = sight.open(path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path

"""`saestream report`: opened in a real browser without a network, its numbers against the API's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import api_engine
import msgspec
import pytest
from api_engine import Engine
from api_rig import RUN, Api, api_process
from playwright.sync_api import Browser, Locator, Page, expect

from api import report as reports
from api.client import Client
from engine.analysis.worker import Worker
from engine.errors import BadInput, NotReady
from engine.views.records import CalibrationStatus
from tests.chromium import chromium
from tests.pushed_run import DENSE, PAIRS, SIZES, push_all
from tests.service import Service, serving

HOSTILE = "<img src=x onerror=window.hit=1>"
ENDING = "</script><script>window.hit=1</script>"


def saestream(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "api.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


class Opened:
    """A report in a browser that has no network, and what went wrong in it."""

    def __init__(self, browser: Browser, path: Path, width: int = 1200, scheme: str = "light") -> None:
        self.wrong: list[str] = []
        viewport = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True)  # type: ignore[arg-type]
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda asked: None if asked.url == path.as_uri() else self.wrong.append(asked.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exc: object) -> None:
        self.context.close()

    def drawn(self, chart: str) -> Any:
        """The traces of a chart, once it is drawn."""
        plot = self.page.locator(f"#{chart} .plot")
        expect(plot.locator("svg.main-svg").first).to_be_attached()
        return plot.evaluate("plot => JSON.parse(JSON.stringify(plot.data))")

    def rows(self, table: str) -> list[list[str]]:
        """The cells of a table's body, white space as one blank."""
        return [
            [" ".join(cell.split()) for cell in row.locator("td").all_inner_texts()]
            for row in self.page.locator(f"{table} tbody tr").all()
        ]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("reported"), "--dictionary", ",".join(map(str, SIZES))) as running:
        yield running


@pytest.fixture(scope="module")
def empty(service: Service, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The report of the run before anything was sent, and what the command said."""
    out = tmp_path_factory.mktemp("empty") / "report.html"
    ended = saestream("report", "--out", str(out), "--url", str(service.http.base_url))
    assert ended.returncode == 0, ended.stderr
    return out, ended.stdout


@pytest.fixture(scope="module")
def written(empty: tuple[Path, str], service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run without a model, in which pairs have intervals."""
    push_all(service)
    out = tmp_path_factory.mktemp("report") / "report.html"
    ended = saestream("report", "--out", str(out), "--url", str(service.http.base_url))
    assert ended.returncode == 0, ended.stderr
    assert f"{len(DENSE[0]):,} tokens" in ended.stdout
    return out


@pytest.fixture(scope="module")
def opened(written: Path, browser: Browser) -> Iterator[Opened]:
    with Opened(browser, written) as page:
        yield page


def test_a_run_without_a_token_says_so_and_shows_no_statistics(empty: tuple[Path, str], browser: Browser) -> None:
    path, said = empty
    assert "Nothing has been counted yet" in said
    with Opened(browser, path) as opened:
        expect(opened.page.locator(".notice")).to_contain_text("Nothing has been counted yet")
        expect(opened.page.locator("section")).to_have_count(1)
        assert [row[2] for row in opened.rows("#layers")] == [str(size) for size in SIZES]
        assert opened.wrong == []
    assert path.stat().st_size < 50_000  # without charts there is no plotly in it


def test_it_loads_nothing_and_draws_every_chart_without_an_error(opened: Opened) -> None:
    figures = opened.page.locator("figure.chart")
    expect(opened.page.locator("figure.chart .plot svg.main-svg").first).to_be_attached()
    assert figures.count() >= 2 + 2 + 5 + 8  # Sankeys, dead features, convergence, one per measure
    for figure in figures.all():
        expect(figure.locator("svg.main-svg").first).to_be_attached()
    assert opened.wrong == []


def test_the_run_is_described_by_its_status_and_its_corpora(opened: Opened, service: Service) -> None:
    status = service.get("/v1/status")
    expect(opened.page.locator("#run .facts").first).to_contain_text("none: activations were pushed")
    share = [f"{layer['dead']} ({layer['dead'] / layer['features']:.1%})" for layer in status["layers"]]
    assert [row[3] for row in opened.rows("#layers")] == share and status["layers"][0]["dead"] == 1
    (corpus,) = service.get("/v1/corpora")["items"]
    names = ("uploads", "documents_counted", "tokens_counted")
    assert opened.rows("#corpora") == [["pushed", "counted", *(f"{corpus[name]:,}" for name in names), "0"]]


def test_the_flow_is_that_of_the_api_in_the_table_and_in_both_charts(opened: Opened, service: Service) -> None:
    answer = service.get("/v1/flow")
    kinds = ("passed", "disappeared", "passed_into", "appeared")
    for row, pair in zip(opened.rows("#flow-table"), answer["pairs"], strict=True):
        assert row[0] == f"{pair['up']['layer']} → {pair['down']['layer']}"
        for cell, kind in zip(row[1:5], kinds, strict=True):
            live, every = pair[kind]["live"], pair[kind]["all"]
            assert cell == f"{live['count']} {live['share']:.1%} ({every['share']:.1%})"
    for among in ("live", "all"):
        (sankey,) = opened.drawn(f"flow-{among}-0")
        expected = []
        for pair in answer["pairs"]:
            passed, gone, into, new = (pair[kind][among]["count"] for kind in kinds)
            expected += [passed, into, gone, new]
        assert sankey["link"]["value"] == expected
        ends = list(zip(sankey["link"]["source"], sankey["link"]["target"], strict=True))
        for at, pair in enumerate(answer["pairs"]):  # what comes into a layer's node is its size, and so is what leaves it
            size = "live" if among == "live" else "features"
            assert sum(value for value, (source, _) in zip(expected, ends, strict=True) if source == at) == pair["up"][size]
            into_next = [value for value, (_, target) in zip(expected, ends, strict=True) if target == at + 1]
            assert sum(into_next) == pair["down"][size]
        assert sankey["node"]["label"][: len(SIZES)] == ["0", "1", "2"]
    expect(opened.page.locator("#flow .source")).to_contain_text(answer["snapshot"]["version"])
    expect(opened.page.locator("#flow .source")).to_contain_text(f"{answer['snapshot']['tokens']:,} tokens")


def test_dead_features_and_convergence_are_the_points_of_the_api(opened: Opened, service: Service) -> None:
    layers, series = service.get("/v1/status")["layers"], service.get("/v1/convergence")
    (bars,) = opened.drawn("dead-now")
    assert bars["x"] == [layer["dead"] / layer["features"] for layer in layers]
    for layer, trace in zip(layers, opened.drawn("dead-series"), strict=True):
        assert trace["y"] == [point["dead"][layer["layer"]] / layer["features"] for point in series["points"]]
    points = series["points"]
    assert len(points) > 1
    for chart, value in (
        ("split_half_rbo", lambda point: point["split_half_rbo"]),
        ("reliability-jaccard", lambda point: point["reliability"]["jaccard"]),
        ("unseen_mass", lambda point: point["unseen_mass"]),
        ("interval_share", lambda point: point["interval_share"]),
        ("median_width", lambda point: point["median_width"]),
    ):
        traces = opened.drawn(f"convergence-{chart}")
        assert [trace["name"] for trace in traces] == [f"{up} → {down}" for up, down in PAIRS]
        for at, trace in enumerate(traces):
            assert trace["x"] == [point["tokens"] for point in points]
            assert trace["y"] == [value(point)[at] for point in points]
    for at, row in enumerate(opened.rows("#convergence-table")):
        share = points[-1]["interval_share"][at]
        assert share and row[5] == f"{share:.1%}" and row[1] == f"{points[-1]['split_half_rbo'][at]:.3f}"


def test_histograms_have_the_counts_of_the_api_and_the_table_its_medians(opened: Opened, service: Service) -> None:
    answer = service.get("/v1/histograms")
    assert "decoder_cosine" not in answer["measures"]
    expect(opened.page.locator("#histograms figure")).to_have_count(len(answer["measures"]))
    for measure in answer["measures"]:
        items = [item for item in answer["items"] if item["measure"] == measure]
        for item, trace in zip(items, opened.drawn(f"histograms-{measure}"), strict=True):
            counts = [told[0] for told in trace["customdata"][1:-1]]
            assert [count for count in counts if count] == [count for count in item["up"]["counts"] if count]
            assert trace["y"] == pytest.approx([0, *(count / item["up"]["live"] for count in counts), 0])
            first = next(at for at, count in enumerate(item["up"]["counts"]) if count)
            shown = next(at for at, count in enumerate(counts) if count)
            if item["bins"][first]:  # 0 can't be on a logarithmic axis
                assert trace["x"][1 + shown] == item["bins"][first]
    for row, pair in zip(opened.rows("#medians"), PAIRS, strict=True):
        found = [item for item in answer["items"] if tuple(item["pair"]) == pair]
        assert row[1:-1] == [f"{item['up']['median']:.3f} {item['down']['median']:.3f}" for item in found]


def test_the_most_certain_pairs_lead_with_their_intervals(opened: Opened, service: Service) -> None:
    tables = opened.page.locator("#pass_through article")
    expect(tables).to_have_count(len(PAIRS))
    for at, (up, down) in enumerate(PAIRS):
        answer = service.get("/v1/edges", measure="pearson", pair=f"{up}-{down}", limit=3)
        rows = opened.rows(f"#pass_through article:nth-of-type({at + 1})")
        assert len(rows) == min(3, answer["total"])
        for row, edge in zip(rows, answer["items"], strict=True):
            assert row[:3] == [
                f"{edge['up']} → {edge['down']}",
                f"{edge['estimate']:.3f}",
                f"{edge['lower']:.3f}–{edge['upper']:.3f}",
            ]
            assert row[4:] == [
                *(f"{edge['counts'][key]:,}" for key in ("up", "down", "joint")),
                f"{edge['documents']:,}",
                f"{edge['counted_from']:,}",
            ]
    assert opened.rows("#pass_through article:nth-of-type(1)")[0][0] == "0:1 → 1:4"
    expect(opened.page.locator("#pass_through .context").first).to_contain_text("this run has no text")


def test_the_planted_specialisation_is_there_with_its_conditions_and_the_childrens_intervals(
    opened: Opened, service: Service
) -> None:
    answer = service.get("/v1/specializations")
    expect(opened.page.locator("#specializations-shown")).to_have_text(str(answer["shown"]))
    article = opened.page.locator("#specializations article", has_text="0:6")
    (item,) = (item for item in answer["items"] if item["parent"] == "0:6")
    expect(article.locator(".tag")).to_have_text("shown" if item["conditions"]["exclusive"] == "shown" else "candidate")
    coverage = item["conditions"]["coverage"]
    expect(article.locator(".facts")).to_contain_text(f"{coverage['lower']:.1%} to {coverage['upper']:.1%}")
    rows = [" ".join(row.split()) for row in article.locator("tbody tr").all_inner_texts()]
    for row, child in zip(rows, item["children"], strict=True):
        interval = service.get("/v1/similarity", up="0:6", down=child["feature"])["measures"]["necessity"]
        bounds = f"{interval['lower']:.3f}–{interval['upper']:.3f}"
        assert interval["status"] == "ok"
        assert row == " ".join(
            (
                child["feature"],
                f"{child['share']:.1%}",
                f"{child['necessity']:.3f}",
                bounds,
                f"{child['counts']['down']:,}",
                f"{child['counts']['joint']:,}",
            )
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_at_the_width_of_a_phone_and_charts_have_the_colours_of_the_page(
    written: Path, browser: Browser, scheme: str
) -> None:
    with Opened(browser, written, width=400, scheme=scheme) as opened:
        opened.drawn("histograms-jaccard")
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400
        ink = opened.page.evaluate("getComputedStyle(document.body).color")
        label = opened.page.locator("#histograms-jaccard .xtick text").first
        expect(label).to_have_css("fill", ink)
        opened.page.emulate_media(color_scheme="light" if scheme == "dark" else "dark")
        other = opened.page.evaluate("getComputedStyle(document.body).color")
        assert other != ink
        expect(label).to_have_css("fill", other)
        assert opened.wrong == []


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Engine]]:
    """A run whose names and texts are HTML; the API is a process, the engine and the analysis worker are of this one."""
    layers = [msgspec.structs.replace(layer, hook=f"<b>&lt;{layer.layer}</b>{ENDING}") for layer in RUN.layers]
    run = msgspec.structs.replace(RUN, model=f"</title>{ENDING}", saes=HOSTILE, layers=layers)
    folder, stop = tmp_path_factory.mktemp("hostile"), threading.Event()
    with pytest.MonkeyPatch.context() as patch, api_process(folder, run) as (api, _):
        patch.setattr(api_engine, "RUN", run)
        engine = Engine(api.settings)
        engine.live._contexts._decode = lambda token: HOSTILE if token % 2 else f"{ENDING}{{{{ 7 * 6 }}}}"
        worker = threading.Thread(target=Worker(api.settings, stop).run)
        worker.start()
        yield api, engine
        stop.set()
        worker.join()
        engine.close()


def test_a_run_that_is_calibrating_says_how_far_it_is(hostile: tuple[Api, Engine], browser: Browser, tmp_path: Path) -> None:
    api, engine = hostile
    calibration = CalibrationStatus(tokens=1_200, calibration_tokens=50_000, done=False, never_fired=[0, 0, 0])
    engine.publisher.beat(engine.status("calibrating", calibration=calibration))
    with Client(api.url) as client:
        reports.write(reports.gather(client), tmp_path / "report.html")
    with Opened(browser, tmp_path / "report.html") as opened:
        expect(opened.page.locator(".notice")).to_contain_text("1,200 of 50,000 tokens were seen")
        expect(opened.page.locator("section")).to_have_count(1)
        assert opened.wrong == []


def test_whatever_names_and_texts_hold_is_shown_as_text(hostile: tuple[Api, Engine], browser: Browser, tmp_path: Path) -> None:
    api, engine = hostile
    for _ in range(3):
        engine.count()
    engine.publish("idle")
    with Client(api.url) as client:
        reports.write(reports.gather(client), tmp_path / "report.html")
    with Opened(browser, tmp_path / "report.html") as opened:
        page = opened.page
        bars = opened.drawn("dead-now")
        assert len(bars[0]["x"]) == len(RUN.layers)
        labels = [_text(label) for label in page.locator("#dead-now .ytick text").all()]
        shown = {f"{layer} · <b>&lt;{layer}</b></script><scrip… " for layer in range(len(RUN.layers))}
        assert set(labels) == shown, "plotly read the name as markup"
        _point_at(page, page.locator("#flow-live-0 .node-rect").first)
        assert f"<b>&lt;0</b>{ENDING}" in _text(page.locator("#flow-live-0 .hovertext"))
        _point_at(page, page.locator("#dead-now .point path").first)
        assert f"<b>&lt;0</b>{ENDING}" in _text(page.locator("#dead-now .hovertext"))
        assert page.locator("h1").inner_text() == f"</title>{ENDING}"
        texts = page.locator("#pass_through .context .text")
        expect(texts.first).to_contain_text(HOSTILE)
        expect(texts.first).to_contain_text(ENDING + "{{ 7 * 6 }}")
        expect(page.locator("#pass_through .where").first).to_contain_text("document <i>")  # the name of a document
        assert page.locator("img, .context script, .where i").count() == 0
        assert page.locator("script:not([type])").count() == 2  # plotly and ours
        assert page.evaluate("window.hit") is None
        assert opened.wrong == []


def test_without_intervals_the_best_estimates_are_shown_and_called_that(
    hostile: tuple[Api, Engine], browser: Browser, tmp_path: Path
) -> None:
    api, engine = hostile
    if not engine.state.tokens:
        engine.count()
    engine.publish("idle")
    with Client(api.url) as client:
        reports.write(reports.gather(client), tmp_path / "report.html")
        best = client.get("/v1/flow", pair="0-1", kind="passed")["items"][0]["best"]
    with Opened(browser, tmp_path / "report.html") as opened:
        expect(opened.page.locator("#pass_through .notice")).to_contain_text("No pair has an interval")
        row = opened.rows("#pass_through article:nth-of-type(1)")[0]
        assert row[:3] == [f"{best['up']} → {best['down']}", f"{best['estimate']:.3f}", "–"]


def _text(found: Locator) -> str:
    """The text of an SVG label, with the blanks of plotly's line breaks left out."""
    expect(found).to_be_attached()
    return (found.text_content() or "").replace("\xa0", " ")


def _point_at(page: Page, found: Locator) -> None:
    found.scroll_into_view_if_needed()
    box = found.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


@pytest.mark.parametrize(
    ("out", "named"),
    [
        pytest.param("absent/report.html", ["absent/report.html", "no folder"], id="no-such-folder"),
        pytest.param("", ["that is a folder", "report.html"], id="a-folder"),
    ],
)
def test_a_file_that_can_not_be_written_is_refused_before_anything_is_read(tmp_path: Path, out: str, named: list[str]) -> None:
    ended = saestream("report", "--out", str(tmp_path / out), "--url", "http://127.0.0.1:1")
    assert ended.returncode == 1 and len(ended.stderr.strip().splitlines()) == 1
    assert all(word in ended.stderr for word in named)
    assert list(tmp_path.iterdir()) == []


def test_without_a_server_it_is_one_sentence_and_no_file(tmp_path: Path) -> None:
    ended = saestream("report", "--out", str(tmp_path / "report.html"), "--url", "http://127.0.0.1:1")
    assert ended.returncode == 1 and "127.0.0.1:1" in ended.stderr and "saestream serve" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_a_server_that_still_loads_its_model_has_no_report_yet(tmp_path: Path) -> None:
    with api_process(tmp_path, run=None) as (api, _), Client(api.url) as client, pytest.raises(NotReady, match="still loading"):
        reports.gather(client)


def test_a_file_that_is_there_is_replaced_whole_or_kept(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report.html"
    out.write_text("the one before")
    status = {"layers": [], "model": "", "saes": "", "tokens": 0, "threshold": {"kind": "absolute", "value": 0}}
    status |= {"state": "idle", "calibration": None, "pairs": [], "published_k": 20, "min_support": 10, "problem": None}
    run = reports.Run({**status, "queue_tokens": 0}, [], "http://127.0.0.1:1", "now")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _full)
        with pytest.raises(BadInput, match="No space left"):
            reports.write(reports.Report(run, [], "nothing"), out)
    assert out.read_text() == "the one before" and list(tmp_path.iterdir()) == [out]
    reports.write(reports.Report(run, [], "nothing"), out)
    assert "saestream report" in out.read_text() and list(tmp_path.iterdir()) == [out]


def _full(path: Path, target: Path) -> None:
    raise OSError(28, "No space left on device")

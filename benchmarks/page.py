"""How the page does in a real browser: frames per second of a large graph, and how soon something is seen.

    python -m benchmarks.page [--quick] [--url URL]

- "pan" and "zoom": a graph of 500 nodes and 2,000 edges over 7 layers, moved a little in every frame for some seconds by the
  events of a pointer and a wheel. `seconds` are from frame to frame, `fps` is frames by time, CPU time that of the whole browser
  per frame.
- "first paint" and "first numbers": from the request of the page to its first contentful paint, and to the count of tokens on it,
  in a fresh browser profile each time. On the demo: a server of its own is started and fed the shipped sample, or `--url` names one
  that runs.

Debian's Chromium without a GPU, as in the tests; the window has 1,440 × 900 pixels.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import logging
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
from playwright.sync_api import Browser, Page, Route

from benchmarks import rows
from engine.demo.text import CORPORA, sample_documents
from tests.chromium import chromium
from tests.service import free_port

log = logging.getLogger(__name__)

NODES, EDGES, LAYERS = 500, 2_000, 7
WINDOW = {"width": 1440, "height": 900}
_START_SECONDS = 120.0

MOVE = """
async ({ kind, seconds }) => {
  const stage = document.querySelector(".stage");
  const box = stage.getBoundingClientRect();
  const middle = { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 };
  const pointer = (type, x, y) =>
    stage.dispatchEvent(new PointerEvent(type, { pointerId: 1, clientX: x, clientY: y, bubbles: true, pointerType: "touch" }));
  stage.setPointerCapture = () => {};
  const frames = [];
  const began = performance.now();
  if (kind === "pan") pointer("pointerdown", middle.clientX, middle.clientY);
  await new Promise((done) => {
    const step = (now) => {
      frames.push(now);
      const t = (now - began) / 1000;
      if (t > seconds) return done();
      const { clientX: x, clientY: y } = middle;
      const wheel = { ...middle, deltaY: 40 * Math.sin(2 * t), bubbles: true, cancelable: true };
      if (kind === "pan") pointer("pointermove", x + 260 * Math.sin(2.3 * t), y + 180 * Math.sin(1.7 * t));
      else stage.dispatchEvent(new WheelEvent("wheel", wheel));
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  });
  if (kind === "pan") pointer("pointerup", middle.clientX, middle.clientY);
  return frames;
}
"""


def graph(seed: int = 0) -> dict[str, Any]:
    """An answer of `/v1/edges` with as many nodes and edges: each node has a partner of its own rank, the rest lies anywhere."""
    chance = random.Random(seed)
    layers = [[f"{layer}:{index}" for index in range(NODES // LAYERS + (layer < NODES % LAYERS))] for layer in range(LAYERS)]
    pairs = {(up, down) for a, b in itertools.pairwise(layers) for up, down in zip(a, b, strict=False)}
    while len(pairs) < EDGES:
        layer = chance.randrange(LAYERS - 1)
        pairs.add((chance.choice(layers[layer]), chance.choice(layers[layer + 1])))
    items = []
    for up, down in sorted(pairs):
        value = chance.uniform(0.1, 0.95)
        counts = {"up": chance.randrange(50, 20_000), "down": chance.randrange(50, 20_000), "joint": 40}
        bounds = {"lower": 0.8 * value, "upper": min(1.0, 1.2 * value), "status": "ok"}
        items.append({"up": up, "down": down, "counts": counts, "estimate": value, "measures": {"jaccard": value}, **bounds})
    snapshot = {"version": "1-1", "tokens": 600_000, "age_ms": 0}
    return {"measure": "jaccard", "watched": EDGES, "total": EDGES, "items": items, "next": None, "snapshot": snapshot}


def frames(browser: Browser, url: str, seconds: float, repeats: int) -> list[dict[str, object]]:
    """Rows for panning and zooming."""
    body = json.dumps(graph())

    def synthetic(route: Route) -> None:
        route.fulfill(body=body, content_type="application/json")

    page = browser.new_page(viewport=WINDOW)  # type: ignore[arg-type]
    page.route("**/v1/edges*", synthetic)
    page.route("**/v1/communities/of*", lambda route: route.fulfill(body='{"community": null}', content_type="application/json"))
    page.goto(f"{url}/?view=graph")
    until(page, f"document.querySelectorAll('.node').length === {NODES}")
    page.wait_for_timeout(1500)
    found = []
    for kind in ("pan", "zoom"):
        moved(page, kind, 0.5)
        gaps, wall, cpu = [], 0.0, 0.0
        for _ in range(repeats):
            before, began = browser_cpu(), time.perf_counter()
            at = moved(page, kind, seconds)
            cpu, wall = cpu + browser_cpu() - before, wall + time.perf_counter() - began
            gaps += [(b - a) / 1000 for a, b in itertools.pairwise(at)]
        cuts = statistics.quantiles(gaps, n=10, method="inclusive")
        timing = rows.Timing(cuts[1], statistics.median(gaps), cuts[7], cpu / len(gaps), len(gaps))
        fps = len(gaps) / sum(gaps)
        more = {"fps": fps, "slowest_seconds": max(gaps), **versions(browser)}
        found.append(rows.row("page", kind, {"nodes": NODES, "edges": EDGES}, timing, **more))
    page.close()
    return found


def moved(page: Page, kind: str, seconds: float) -> list[float]:
    """Milliseconds of every frame while the graph moves."""
    return page.evaluate(MOVE, {"kind": kind, "seconds": seconds})


def first_paint(browser: Browser, url: str, repeats: int) -> list[dict[str, object]]:
    """Rows for what is seen first."""
    paints, numbers, cpus = [], [], []
    for _ in range(repeats):
        context = browser.new_context(viewport=WINDOW)  # type: ignore[arg-type]
        page = context.new_page()
        before = browser_cpu()
        page.goto(url)
        numbers.append(until(page, "/[0-9]/.test(document.querySelector('.count')?.textContent ?? '')") / 1000)
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000)
        cpus.append(browser_cpu() - before)
        context.close()
    found = []
    for variant, values in (("first paint", paints), ("first numbers", numbers)):
        cuts = statistics.quantiles(values, n=10, method="inclusive")
        timing = rows.Timing(cuts[1], statistics.median(values), cuts[7], statistics.median(cpus), repeats)
        found.append(rows.row("page", variant, {}, timing, **versions(browser)))
    return found


def until(page: Page, condition: str) -> float:
    """Milliseconds from the navigation to the first frame in which a condition holds. (playwright's own wait needs `eval`, which
    the page's security policy refuses.)"""
    look = f"const look = () => ({condition}) ? done(performance.now()) : requestAnimationFrame(look);"
    return page.evaluate(f"() => new Promise((done) => {{ {look} look(); }})")


def versions(browser: Browser) -> dict[str, object]:
    return {"browser": f"chromium {browser.version}"}


def browser_cpu() -> float:
    """CPU seconds of the browser's processes: the children of this process, and theirs."""
    total = 0.0
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "chrom" in child.name():
                times = child.cpu_times()
                total += times.user + times.system
    return total


def feed(url: str) -> None:
    """Count the shipped sample."""
    with httpx.Client(base_url=url, timeout=180.0) as http:
        for corpus in CORPORA:
            body = "".join(json.dumps({"text": row.text}) + "\n" for row in sample_documents() if row.package == corpus)
            asked: Any = {"params": {"name": corpus, "wait": "visible"}, "headers": {"Content-Type": "application/x-ndjson"}}
            http.post("/v1/corpora", content=body, **asked).raise_for_status()


@contextlib.contextmanager
def demo() -> Iterator[str]:
    """A server on the bundled model, with nothing counted yet."""
    with tempfile.TemporaryDirectory() as directory:
        port = free_port()
        log = (Path(directory) / "serve.log").open("wb")
        command = [sys.executable, "-m", "api.cli", "serve", "--data-dir", f"{directory}/data", "--port", str(port)]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=url, timeout=180.0) as http:
                until_ready(http)
            yield url
        finally:
            server.terminate()
            server.wait()
            log.close()


def until_ready(http: httpx.Client) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if http.get("/readyz").status_code == 200:
                return
        time.sleep(0.2)
    raise TimeoutError(f"the server was not ready within {_START_SECONDS:.0f} s")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description="frame rate and first paint of the page")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, and no rows are kept")
    parser.add_argument("--url", help="a server that runs; by default one is started on the demo")
    options = parser.parse_args()
    seconds, repeats, visits = (1.5, 1, 3) if options.quick else (4.0, 3, 15)
    with contextlib.nullcontext(options.url) if options.url else demo() as url, chromium() as browser:
        if not options.url:
            feed(url)
        found = first_paint(browser, url, visits) + frames(browser, url, seconds, repeats)
    for one in found:
        times: Any = one["seconds"]
        rate = f"  {one['fps']:.0f} frames a second" if "fps" in one else ""
        log.info("%s: %.0f ms (%.0f to %.0f)%s", one["variant"], *(1000 * times[key] for key in ("p50", "p20", "p80")), rate)
    if not options.quick:
        rows.append(found)


if __name__ == "__main__":
    main()

"""The pictures of the page in the README, from the demo: `docs/overview.png` while text is counted, `docs/graph.png` after it.

    python -m benchmarks.screenshots [--url URL]

A server of its own is started and fed the demo's text; `--url` takes the pictures of one that runs.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page

from api.demo import Feeder
from benchmarks.page import demo
from tests.chromium import chromium

DOCS = Path(__file__).parent.parent / "docs"
WIDTH = 1280
SCALE = 1.25
RARE = 0.05  # density of the feature whose panel is shown: one that says something
COUNTING_TOKENS = 250_000  # the overview's picture is taken from here on: flow and curves have something to show
PROMPT = "Returns an array of floats."
_SECONDS = 1_200.0


def overview(browser: Browser, url: str) -> None:
    """While text is counted, where it is."""
    page = opened(browser, url, 1060)
    page.locator(".flow svg").wait_for()
    page.locator(".curves .series").first.wait_for()
    until(lambda: page.locator(".spark i").count() > 15 or not counting(url))
    kept(page, "overview.png")


def graph(browser: Browser, url: str) -> None:
    """A prompt, narrowed to one of its tokens, with the panel of the most active feature of a middle layer that is a gate."""
    http = httpx.Client(base_url=url, timeout=60.0)
    answer = http.post("/v1/graph", json={"prompt": PROMPT, "token": 2, "min_value": 0.05}).json()
    children = {one["child"] for one in answer["gates"]}
    middle = [one for one in answer["nodes"] if one["layer"] in (2, 3, 4) and one["density"] < RARE]
    chosen = max(middle, key=lambda one: (one["feature"] in children, one["activation"]))["feature"]
    page = opened(browser, f"{url}/?view=graph&start=prompt&prompt={PROMPT}&token=2&select={chosen}", 800)
    page.locator(".legend-box a").first.wait_for()
    page.locator(".side mark.peak").first.wait_for()
    page.wait_for_timeout(1_000)  # communities colour it
    kept(page, "graph.png")


def opened(browser: Browser, address: str, height: int) -> Page:
    window: Any = {"width": WIDTH, "height": height}
    page = browser.new_page(viewport=window, device_scale_factor=SCALE, color_scheme="light")
    page.goto(address)
    page.locator("#link[data-link=live]").wait_for()
    return page


def kept(page: Page, name: str) -> None:
    page.screenshot(path=DOCS / name)
    page.close()


def tokens(url: str) -> int:
    return httpx.get(f"{url}/v1/status").json()["tokens"]


def counting(url: str) -> bool:
    """Whether there is text that is not counted yet."""
    return any(corpus["state"] != "counted" for corpus in httpx.get(f"{url}/v1/corpora").json()["items"])


def until(holds: Any) -> None:
    """Raises TimeoutError: it never held."""
    deadline = time.monotonic() + _SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the demo was not where it should be after {_SECONDS:.0f} s")
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description="pictures of the page for the README")
    parser.add_argument("--url", help="a server that runs; by default one is started on the demo")
    options = parser.parse_args()
    with contextlib.nullcontext(options.url) if options.url else demo() as url, chromium() as browser:
        if not options.url:
            feeder = Feeder(url)
            feeder.start()
            until(lambda: tokens(url) > COUNTING_TOKENS)
        overview(browser, url)
        until(lambda: not counting(url))
        graph(browser, url)


if __name__ == "__main__":
    main()

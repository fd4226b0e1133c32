"""`python -m benchmarks.plots`: the README's pictures, `docs/performance/*.svg`, and its table, from the rows alone.

plotly draws them in Chromium, as on the report. Each carries a style sheet of its own, so that a reader whose screen is dark sees
light text on dark paper, wherever the picture is shown.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import plotly.graph_objects as go
from playwright.sync_api import Browser
from plotly.offline import get_plotlyjs

from benchmarks import figures, rows, tables
from tests.chromium import chromium

log = logging.getLogger(__name__)

PICTURES = Path(__file__).parent.parent / "docs" / "performance"
ABOUT = {
    "speed": "Tokens per second of a layer pair, by shape: dense matmuls, sparse products, saestream, and the machine's bound",
    "growth": "CPU time against work: tokens, L0, layer pairs, dictionary",
    "distances": "How far every benchmark is from its bound",
    "loop": "What a token costs on the demo, by stage",
    "gpu": "Tokens per second over eleven layer pairs on a GPU, by variant",
}
"""What is to be seen, for those who don't see it."""
COLORS = {  # by the stand-in of `figures`: name, on light, on dark
    figures.INK: ("ink", "#1d2129", "#e4e7ee"),
    figures.QUIET: ("quiet", "#5f6673", "#9ba3b3"),
    figures.LINE: ("line", "#e1e3e6", "#2f3541"),
    figures.PAPER: ("paper", "#ffffff", "#13151a"),
    figures.OURS: ("ours", "#3557d4", "#8ea6ff"),
    figures.FIRST: ("first", "#c9822b", "#e0a458"),
    figures.SECOND: ("second", "#2f9a94", "#55bdb5"),
    figures.THIRD: ("third", "#aa4499", "#d07fc3"),
}


def draw(browser: Browser, figure: go.Figure) -> str:
    """A figure as SVG. The same figure gives the same text, on a page of its own each."""
    page, layout = browser.new_page(), figure.to_dict()["layout"]
    page.add_script_tag(content=get_plotlyjs())
    call = "([figure, width, height]) => Plotly.toImage(JSON.parse(figure), {format: 'svg', width, height})"
    drawn = unquote(page.evaluate(call, [figure.to_json(), layout["width"], layout["height"]]).partition(",")[2])
    page.close()
    for stand_in, (name, light, _) in COLORS.items():
        drawn = drawn.replace(stand_in, f"var(--{name}, {light})")
    drawn = re.sub(r"(clip|legend|defs-|topdefs-|trace)[0-9a-f]{6}", r"\1", drawn)  # plotly names its parts by chance
    light, dark = (";".join(f"--{name}:{color[at]}" for name, *color in COLORS.values()) for at in (0, 1))
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    return drawn.replace(">", f">{style}", 1) + "\n"


def block(there: Sequence[dict[str, Any]]) -> str:
    """What stands in the README: the table, and every picture that there are rows for."""
    shown = [name for name, make in figures.FIGURES.items() if make(there) is not None]
    pictures = [f"![{ABOUT[name]}]({PICTURES.relative_to(tables.README.parent)}/{name}.svg)" for name in shown]
    return "\n\n".join([tables.table(there), *pictures])


def main() -> None:
    """Draw every picture that there are rows for, and put the table and them into the README."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    there = rows.read()
    readme = tables.README.read_text(encoding="utf-8")
    tables.README.write_text(tables.put_in(readme, block(there)), encoding="utf-8")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        for name, make in figures.FIGURES.items():
            if (figure := make(there)) is None:
                log.warning("%s: there are no rows for it", name)
                continue
            (PICTURES / f"{name}.svg").write_text(draw(browser, figure), encoding="utf-8")
            log.info("%s", PICTURES / f"{name}.svg")


if __name__ == "__main__":
    main()

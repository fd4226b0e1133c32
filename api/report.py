"""`saestream report`: one self-contained HTML file about a run, from what a running server answers.

1. Read what the run is (`/v1/status`, `/v1/corpora`). Without anything counted the report says so, and ends there.
2. Let each section of `api.report_sections.SECTIONS` read what it shows. A section is from one snapshot, which it names; a server
   that goes on counting may give the next section a newer one.
3. Fill in the templates. They escape what they are given, so text of a corpus, names of documents and of hook points stay text.
   Scripts run by their hash only (Content-Security-Policy), and nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from api.client import Client
from api.report_sections import SECTIONS, Run, Section
from api.tables import number
from engine.errors import BadInput, NotReady

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Report:
    """What the templates are filled with; `notice` says why there are no sections."""

    run: Run
    sections: list[Section]
    notice: str | None


def check_out(out: Path) -> None:
    """Refuse a file that can't be written, before anything is read.

    Raises:
        BadInput: its folder does not exist, or it is a folder itself.
    """
    if out.is_dir():
        raise BadInput(f"--out {out}: that is a folder; give the name of a file, for example {out / 'report.html'}")
    if not out.parent.is_dir():
        raise BadInput(f"--out {out}: there is no folder {out.parent}; make it first, or give another name")


def gather(client: Client) -> Report:
    """Read everything that the report shows.

    Raises:
        NotReady: no server, one that is still starting, or one that did not answer in time. Refused: any other problem.
    """
    status, corpora = client.get("/v1/status"), client.every("/v1/corpora")["items"]
    if not status["layers"]:
        raise NotReady("the server is still loading the model and SAEs: there is no run to report on yet; try again in a moment")
    run = Run(status, corpora, client.url, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
    notice = _nothing(status)
    return Report(run, [] if notice else [section(client, run) for section in SECTIONS], notice)


def _nothing(status: Any) -> str | None:
    """Why there are no statistics yet; None when there are."""
    calibration = status["calibration"]
    if status["state"] == "calibrating":
        return (
            f"The run is calibrating: {number(calibration['tokens'])} of {number(calibration['calibration_tokens'])} tokens were "
            "seen (or until the first upload ends). Counting begins at the first token when the thresholds are fixed; there are no "
            "statistics before."
        )
    if status["snapshot"] is None or not status["snapshot"]["tokens"]:
        waiting = status["queue_tokens"] or status["tokens"]
        if waiting:
            return "Text has arrived and nothing of it is in a published snapshot yet: run the report again in a moment."
        return "Nothing has been counted yet: no text was sent to this run. Send some with saestream feed."
    return None


def render(report: Report) -> str:
    """The HTML of a report."""
    scripts = {"plotly": get_plotlyjs(), "report": (TEMPLATES / "report.js").read_text()}
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "share": _share, "layers": _layers}
    return environment.get_template("report.html").render(
        report=report,
        run=report.run,
        style=Markup((TEMPLATES / "report.css").read_text()),  # ours, as the scripts are; what a server answers never is
        scripts={name: Markup(text) for name, text in scripts.items()} if report.sections else {},
        hashes=[_sha256(text) for text in scripts.values()],
    )


def write(report: Report, out: Path) -> None:
    """Render into a file, whole or not at all.

    Raises:
        BadInput: it can't be written; the message says why.
    """
    text = render(report)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(out)
    except OSError as error:
        raise BadInput(f"--out {out}: can't be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _layers(pair: Any) -> str:
    return f"{pair[0]} → {pair[1]}"


def _sha256(text: str) -> str:
    """As a Content-Security-Policy names an inline script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

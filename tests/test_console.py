"""What the commands print of others' words: a terminal shows it, and does nothing that is written in it."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from rich.console import Group
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from api.console import SafeConsole

WORDS = "a\x1b[2Jb\x1b]0;owned\x07c\x9b31md\u202ee\x08\x7f[/red][bold]f\x00\r"
PROBLEM = {"type": "x", "title": "T", "status": 400, "detail": WORDS, "instance": "/"}
STYLE = re.compile(r"\x1b\[[\d;]*m")
"""What Rich itself writes: colours and weights."""


def shown(thing: object, **options: object) -> str:
    sink = io.StringIO()
    SafeConsole(file=sink, width=200, **options).print(thing)
    return sink.getvalue()


def table() -> Table:
    found = Table(WORDS, title=WORDS)
    found.add_row(WORDS)
    return found


THINGS = {
    "string": WORDS,
    "text": Text(WORDS, style="red"),
    "assembled": Text.assemble((WORDS, "bold"), WORDS),
    "table": table(),
    "group": Group(WORDS, Text(WORDS)),
    "nothing of ours": {"key": WORDS},
}


@pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
@pytest.mark.parametrize("terminal", [False, True], ids=["file", "terminal"])
def test_control_characters_are_shown_and_not_sent(thing: object, terminal: bool) -> None:
    printed = STYLE.sub("", shown(thing, force_terminal=terminal, color_system="truecolor" if terminal else None))
    assert {character for character in printed if not character.isprintable()} <= {"\n"}
    if not isinstance(thing, dict):
        assert "a␛[2Jb␛]0;owned" in printed and "[/red][bold]f" in printed


def test_a_progress_bar_shows_the_name_of_a_file_and_no_more() -> None:
    sink = io.StringIO()
    console = SafeConsole(file=sink, width=200, force_terminal=True)
    with Progress(TextColumn("{task.description}", markup=False), console=console) as progress:
        progress.add_task(WORDS, total=1)
    assert "owned" in sink.getvalue() and not re.search(r"\x1b\]|\x9b|\x07|\x1b\[2J", sink.getvalue())


class Hostile(http.server.BaseHTTPRequestHandler):
    """A server that answers everything with what a terminal would obey."""

    def do_GET(self) -> None:
        answer = {
            "items": [{"name": WORDS, "state": WORDS, "uploads": 1, "documents": 1, "tokens_counted": 1}],
            "points": [],
            "pairs": [],
        }
        layer = {"layer": 0, "hook": WORDS, "features": 1, "dead": 0}
        answer |= {"tokens": 1, "tokens_per_second": 1.0, "state": WORDS, "layers": [layer], "problem": WORDS}
        self.reply(*((200, answer) if self.path in ("/v1/status", "/v1/corpora", "/v1/convergence?last=1") else (400, PROBLEM)))

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.reply(400, PROBLEM)

    def reply(self, status: int, body: object) -> None:
        packed = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(packed)))
        self.end_headers()
        self.wfile.write(packed)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize(
    "words", [["status"], ["neighbors", "0:1"], ["gates"], ["watch", "0:1", "1:1"]], ids=lambda words: words[0]
)
def test_a_hostile_server_does_nothing_to_the_terminal_of_a_command(url: str, words: list[str]) -> None:
    command = [sys.executable, "-m", "api.cli", *words, "--url", url]
    ended = subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, "COLUMNS": "200", "FORCE_COLOR": "1"})
    said = STYLE.sub("", (ended.stdout + ended.stderr).decode())
    assert "␛]0;owned" in said and "Traceback" not in said
    assert {character for character in said if not character.isprintable()} <= {"\n"}

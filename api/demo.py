"""`saestream demo`, what `make run` calls: serve the bundled model, stream documentation through it, print what was found.

1. Start `saestream serve` as a child on the bundled model.
2. Send the shipped sample, then two corpora at once in small uploads, over HTTP like any client. Their idempotency keys are the
   hash of what is sent, so a second `make run` in the same folder goes on where the first one ended and counts nothing twice.
3. Show what the server says while it counts.
4. Print some features of a middle layer with their next-layer neighbours and text on which both fire, and serve on.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from api import findings, tables
from api.client import Client
from engine.demo.text import CORPORA, demo_documents, sample_documents
from engine.errors import NotReady, SaestreamError
from engine.supervisor import KEY_VARIABLE, REFUSED, die_with_parent

UPLOAD_DOCUMENTS = 500  # small enough that the first counts come in a second, large enough that an upload costs nothing
_PLAIN_SECONDS = 2.0  # between lines where the output is no terminal
_START_SECONDS = 120.0


def run(console: Console, data_dir: Path, port: int, once: bool) -> int:
    """Run the demo; the exit status is 0, or the server's where it could not start."""
    data_dir.mkdir(parents=True, exist_ok=True)
    log_path = data_dir / "serve.log"
    command = [sys.executable, "-m", "api.cli", "serve", "--data-dir", str(data_dir), "--port", str(port)]
    with log_path.open("ab") as log_file:
        began = log_file.tell()
        server = subprocess.Popen(command, stdout=log_file, stderr=subprocess.STDOUT, preexec_fn=die_with_parent)
    url = f"http://127.0.0.1:{port}"
    api_key = os.environ.get(KEY_VARIABLE)  # the server has it as well, and then needs it
    try:
        with Client(url, api_key) as client:
            console.print(f"Starting the engine (its log is {log_path}) …")
            _until_ready(client, server)
            console.print(
                f"Ready: [bold]{url}[/] is the page, {url}/schema the API. Streaming this Python's own documentation.", markup=True
            )
            feeder = Feeder(url, api_key)
            feeder.start()
            _watch(console, client, server, feeder)
            console.print(findings.report(client))
            if once:
                return 0
            console.print(
                f"\nServing on {url} until Ctrl-C. Feed it more: [bold].venv/bin/saestream feed FILE --corpus NAME[/]", markup=True
            )
            return server.wait()
    except ServerEnded:
        with log_path.open("rb") as log_file:
            log_file.seek(began)
            console.print(log_file.read().decode(errors="replace").strip()[-2000:], highlight=False, markup=False)
        return server.returncode or REFUSED
    except KeyboardInterrupt:
        console.print("Stopping: the engine saves a checkpoint …")
        return 0
    finally:
        server.terminate()
        server.wait()


class ServerEnded(Exception):
    """The server process is gone; its log says why."""


class Feeder(threading.Thread):
    """Sends the sample, then both corpora in turns."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        super().__init__(name="demo feeder", daemon=True)
        self.url, self._api_key = url, api_key
        self.error: SaestreamError | None = None
        self.uploads: list[str] = []

    def run(self) -> None:
        try:
            with Client(self.url, self._api_key) as client:
                for corpus in CORPORA:
                    self._send(client, corpus, [row.text for row in sample_documents() if row.package == corpus])
                parts = {corpus: batches(demo_documents(corpus)) for corpus in CORPORA}
                while parts:
                    for corpus, documents in list(parts.items()):
                        if batch := next(documents, None):
                            self._send(client, corpus, batch)
                        else:
                            del parts[corpus]
        except SaestreamError as error:
            self.error = error

    def _send(self, client: Client, corpus: str, documents: list[str]) -> None:
        body = "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()
        key = f"demo-{hashlib.sha256(body).hexdigest()[:32]}"
        while True:
            try:
                upload = client.upload("/v1/corpora", [body], "application/x-ndjson", key, name=corpus)
                break
            except NotReady:
                time.sleep(0.5)
        self.uploads.append(upload["id"])


def batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents in lists of `UPLOAD_DOCUMENTS`."""
    iterator = iter(documents)
    while batch := list(islice(iterator, UPLOAD_DOCUMENTS)):
        yield batch


def _until_ready(client: Client, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if server.poll() is not None:
            raise ServerEnded
        try:
            client.get("/readyz")
            return
        except NotReady:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _watch(console: Console, client: Client, server: subprocess.Popen[bytes], feeder: Feeder) -> None:
    watched = findings.Watched()
    shown = 0.0
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while True:
            if server.poll() is not None:
                raise ServerEnded
            if feeder.error:
                raise feeder.error
            try:
                status, corpora = client.get("/v1/status"), client.get("/v1/corpora")
                close = watched.look(client)
            except NotReady:
                time.sleep(0.5)
                continue
            if console.is_terminal:
                live.update(_screen(status, corpora, close))
            elif time.monotonic() - shown > _PLAIN_SECONDS:
                shown = time.monotonic()
                console.print(_line(status, close))
            if not feeder.is_alive() and all(corpus["state"] == "counted" for corpus in corpora["items"]):
                console.print(_line(status, close))
                return
            time.sleep(0.25)


def _line(status: Any, close: list[Text]) -> Text:
    line = Text(f"{status['tokens']:>9,} tokens  {status['tokens_per_second']:>6,.0f}/s  ")
    return line.append(close[0]) if close else line


def _screen(status: Any, corpora: Any, close: list[Text]) -> RenderableType:
    progress = Table.grid(padding=(0, 2))
    for corpus in corpora["items"]:
        received, counted = corpus["tokens_received"] or 0, corpus["tokens_counted"]
        bar = ProgressBar(total=max(received, 1), completed=counted, width=40)
        progress.add_row(corpus["name"], bar, f"{counted:,} of {received:,} tokens received")
    dead = ", ".join(tables.number(layer["dead"]) for layer in status["layers"])
    head = Text.assemble((f"{status['tokens']:,}", "bold green"), f" tokens  {status['tokens_per_second']:,.0f} tokens/s")
    return Group(head, progress, Text(f"features not seen yet, by layer: {dead}", style="dim"), *close)

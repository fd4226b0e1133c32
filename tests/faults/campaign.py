"""A fault campaign: a real server is fed over HTTP while its processes are killed, and after each fault every count is compared.

1. Arm a fault, and send uploads until it strikes; each is sent again with the same key until it is acknowledged.
2. Wait until all that was acknowledged is counted.
3. Compare what the API says of every upload, corpus and some pairs, and all counts of the checkpoint then saved, with the oracle.
4. Send some acknowledged uploads again: the same id, and 409 for other content.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import numpy as np
import psutil
import pytest

from engine.corpus.segment_file import segment_path
from engine.counts.checkpoint import Checkpoints, Loaded
from engine.counts.pairs import PairTable
from engine.counts.state import State
from engine.encoder.description import RunDescription
from tests.faults.damage import Damage
from tests.faults.injection import FOLDER, Plan, Step, set_clock
from tests.faults.oracle import Oracle
from tests.faults.streams import Stream, Upload
from tests.service import Service, eventually, serving

SITE = Path(__file__).parent / "site"
ROOT = Path(__file__).parents[2]
SETTLE_SECONDS = 180.0
_AGAIN_SECONDS = 0.05
_READY = re.compile(r"ready: \d+ tokens, (-?\d+) of them counted again in ([\d.]+) s; ([\d.]+) s after")

Steps = Sequence[tuple[Step, Literal["before", "middle", "after"]]]
SEGMENT_STEPS: Steps = (
    ("segment create", "after"),
    ("segment write", "middle"),
    ("segment sync", "before"),
    ("segment rename", "before"),
    ("segment rename", "after"),
    ("log sync_folder", "after"),
)
CHECKPOINT_STEPS: Steps = (
    ("checkpoint make_folder", "after"),
    ("part create", "after"),
    ("part write", "middle"),
    ("table write", "middle"),
    ("part sync", "before"),
    ("part rename", "after"),
    ("manifest create", "after"),
    ("manifest write", "middle"),
    ("manifest sync", "before"),
    ("manifest rename", "before"),
    ("manifest rename", "after"),
    ("manifest remove", "after"),
    ("checkpoint remove_folder", "before"),
)
UPLOAD_STEPS: Steps = (
    ("arrival make_folder", "after"),
    ("body write", "middle"),
    ("body sync", "before"),
    ("receipt write", "middle"),
    ("receipt rename", "before"),
    ("receipt rename", "after"),
    ("upload rename", "before"),
    ("upload rename", "after"),
    ("uploads sync_folder", "after"),
)


@dataclass(frozen=True)
class Fault:
    """A kill: of a process at a step of its own, or of some processes at a random moment.

    Attributes:
        kind: "engine", "API", "both", "Redis" or "all".
        at: process → its plan. killed: what is killed from outside: "engine.main", "api.server", "redis", or all: "serve".
    """

    kind: str
    name: str
    at: Mapping[str, Plan] = field(default_factory=dict)
    killed: tuple[str, ...] = ()

    @property
    def kills(self) -> int:
        return len(self.at) + len(self.killed)

    @property
    def of_engine(self) -> bool:
        """Whether the engine is among what dies."""
        return self.kind in ("engine", "both", "all")


def at_steps(kind: str, steps: Steps, process: str) -> list[Fault]:
    """A kill of a process at each of these steps."""
    return [Fault(kind, f"{process} {when} {step}", {process: Plan(step, when)}) for step, when in steps]


ENGINE_KILLS = at_steps("engine", [*SEGMENT_STEPS, *CHECKPOINT_STEPS], "engine")
API_KILLS = at_steps("API", UPLOAD_STEPS, "api")
RANDOM_KILLS = [
    Fault("engine", "engine at random", killed=("engine.main",)),
    Fault("API", "API at random", killed=("api.server",)),
    Fault("both", "both at random", killed=("engine.main", "api.server")),
    Fault("Redis", "Redis at random", killed=("redis",)),
    Fault("all", "all at once", killed=("serve",)),
]
MODEL_KILLS = [
    Fault("engine", "engine at a segment", {"engine": Plan("segment rename", "after")}),
    Fault("engine", "engine at a table", {"engine": Plan("table write", "middle", skip=3)}),
    *RANDOM_KILLS[2:],
]
"""Of the bundled model, whose engine takes ten seconds to start."""


@dataclass(frozen=True)
class Outcome:
    """What a fault did, after which all was compared and equal.

    Attributes:
        kind: of kill, or the name of a damage. kills: how many processes died.
        ready: seconds from the fault until the service was ready again and the engine had recovered, as a client sees it.
        start, replay, replayed: by the engine's own log: seconds from the start of its process until it had recovered, and of that
            seconds and tokens of counting again. None where the engine was not killed.
    """

    kind: str
    name: str
    kills: int
    ready: float
    start: float | None = None
    replay: float | None = None
    replayed: int | None = None


@contextmanager
def campaign(data_dir: Path, stream: Stream, seed: int, **environment: str) -> Iterator[Campaign]:
    """A server under faults, gone afterwards.

    Args:
        stream: what it is fed. seed: of the moments.
    """
    control = data_dir.with_name(f"{data_dir.name}-faults")
    control.mkdir()
    set_clock(control, 0.0)
    paths = os.pathsep.join([str(SITE), str(ROOT), os.environ.get("PYTHONPATH", "")])
    settings = {"SAESTREAM_SEGMENT_TOKENS": "512", "SAESTREAM_QUIET_MS": "50", "SAESTREAM_CHECKPOINT_INTERVAL": "1"}
    injected = {"PYTHONPATH": paths, FOLDER: str(control), **settings, **environment}
    with serving(data_dir, *stream.options, environment=injected) as service:
        yield Campaign(service, stream, control, np.random.default_rng(seed))


class Campaign:
    """One server, and all that was sent to it.

    Attributes:
        acknowledged: id of every upload that was acknowledged, by its number.
        outcomes: of the faults so far. resent: attempts that failed and were made again. repeated: acknowledged uploads that were
            sent again. conflicts: the same key with other content.
        abandoned: numbers of uploads that were sent once and never again. failed: corpora of uploads that were damaged on purpose.
    """

    def __init__(self, service: Service, stream: Stream, control: Path, rng: np.random.Generator) -> None:
        self.service, self.stream, self.control, self.rng = service, stream, control, rng
        self.oracle = Oracle(stream.sizes, [(up, up + 1) for up in range(len(stream.sizes) - 1)])
        self.acknowledged: dict[int, str] = {}
        self.outcomes: list[Outcome] = []
        self.resent = self.repeated = self.conflicts = 0
        self.abandoned: set[int] = set()
        self.failed: set[str] = set()
        self._next = 0
        self._counted: set[str] = set()
        self._senders = ThreadPoolExecutor(4)

    # feeding

    def feed(self, count: int) -> None:
        """Send the next uploads, some of them at the same time, each until it is acknowledged."""
        numbers = range(self._next, self._next + count)
        self._next += count
        self.acknowledged.update(zip(numbers, self._senders.map(self._send, numbers), strict=True))

    def offer(self) -> httpx.Response:
        """Send the next upload once: it is acknowledged, or not and forgotten."""
        number, self._next = self._next, self._next + 1
        answer = self._post(self.stream.upload(number))
        if answer.status_code == 202:
            self.acknowledged[number] = answer.json()["id"]
        return answer

    def abandon(self) -> None:
        """Send an upload into whatever happens, and never again: it is taken whole or not at all."""
        number, self._next = self._next, self._next + 1
        self.abandoned.add(number)
        with suppress(httpx.TransportError):
            self._post(self.stream.upload(number), corpus=f"abandoned-{number}")

    def pin(self, *pairs: tuple[tuple[int, int], tuple[int, int]]) -> None:
        """Watch pairs of features, given by layer and index."""
        named = [{"up": f"{up[0]}:{up[1]}", "down": f"{down[0]}:{down[1]}"} for up, down in pairs]
        answer = self.service.http.post("/v1/watch", json={"pairs": named})
        assert answer.status_code == 200, answer.text

    def _send(self, number: int) -> str:
        upload = self.stream.upload(number)
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            try:
                answer = self._post(upload)
            except httpx.TransportError as error:
                what = repr(error)
            else:
                if answer.status_code in (200, 202):
                    return answer.json()["id"]
                what = f"{answer.status_code} {answer.text}"
                assert answer.status_code in (409, 503, 507) and "retry-after" in answer.headers, what
            assert time.monotonic() < deadline, f"upload {number} is still not acknowledged: {what}"
            self.resent += 1
            time.sleep(_AGAIN_SECONDS)

    def _post(self, upload: Upload, corpus: str | None = None, body: bytes | None = None) -> httpx.Response:
        return self.service.http.post(
            upload.path,
            params={"name": corpus or upload.corpus},
            content=upload.body if body is None else body,
            headers={"Content-Type": upload.media_type, "Idempotency-Key": upload.key},
        )

    # faults

    def strike(self, fault: Fault) -> Outcome:
        """Let a kill happen while uploads arrive, wait until all is well again, and compare."""
        told = len(self._told())
        for process, plan in fault.at.items():
            plan.put(self.control, process)
        if fault.killed:
            feeding = self._senders.submit(self.feed, 4)
            time.sleep(self.rng.uniform(0.0, 1.0))
            began = time.monotonic()
            self._kill(fault.killed)
        else:
            feeding = self._senders.submit(self.abandon)
            fired = [self.control / f"{process}.fired" for process in fault.at]
            self._feed_until(lambda: all(path.exists() for path in fired), fault.name)
            began = time.monotonic() - (time.time() - max(path.stat().st_ctime for path in fired))
        feeding.result()
        return self._recovered(fault.kind, fault.name, fault.kills, told if fault.of_engine else None, began)

    def damage(self, name: str, action: Damage) -> Outcome:
        """Kill the engine while it counts, damage files, let it start again, and compare."""
        self.feed(4)
        told, began = self.while_engine_is_down(lambda: action(self))
        self.feed(2)
        return self._recovered(name, name, 1, told, began)

    def while_engine_is_down(self, action: Callable[[], object]) -> tuple[int, float]:
        """Kill the engine, do something, and only then let the supervisor go on, which was stopped meanwhile.

        Returns:
            How many engines had told that they are ready before, and when the last one was let start.
        """
        told = len(self._told())
        assert self.service.process is not None
        eventually("an engine runs", lambda: self.service.child("engine.main"))
        self.service.process.send_signal(signal.SIGSTOP)
        try:
            self._kill(("engine.main",))
            action()
            began = time.monotonic()
        finally:
            self.service.process.send_signal(signal.SIGCONT)
        return told, began

    def fail_the_disk(self, fault: Literal["ENOSPC", "EIO"]) -> Outcome:
        """Let the disk fail under the API, then under the engine: uploads are refused, the status tells it, and it passes."""
        said, broken = os.strerror(getattr(errno, fault)), Plan("*", fault=fault, lasting=True)
        broken.put(self.control, "api")
        refused = self.offer()
        assert refused.status_code == 507 and "retry-after" in refused.headers and said in refused.json()["detail"], refused.text
        (self.control / "api").unlink()
        broken.put(self.control, "engine")
        self.feed(3)
        eventually("the status tells it", lambda: said in (self.service.get("/v1/status")["problem"] or ""))
        (self.control / "engine").unlink()
        began = time.monotonic()
        eventually("it is over", lambda: self.service.get("/v1/status")["problem"] is None)
        return self._recovered(f"disk fails: {fault}", fault, 0, None, began)

    def jump(self, ahead: float) -> Outcome:
        """Let the clock jump, while text is counted and over a restart of the engine."""
        set_clock(self.control, ahead)
        self.feed(3)
        self.compare()
        told, began = self.while_engine_is_down(lambda: self.feed(2))
        outcome = self._recovered("clock jumps", f"clock {ahead:+.0f} s", 1, told, began)
        set_clock(self.control, 0.0)
        self.feed(2)
        self.compare()
        return outcome

    def _recovered(self, kind: str, name: str, kills: int, told: int | None, began: float) -> Outcome:
        """Wait until the service is ready, with an engine that told so after `told` others where one died, and compare."""
        self.until_ready(told)
        outcome = Outcome(kind, name, kills, time.monotonic() - began)
        if told is not None:
            replayed, replay, start = self._told()[-1]
            outcome = replace(outcome, start=float(start), replay=float(replay), replayed=int(replayed))
        self.compare()
        self.outcomes.append(outcome)
        return outcome

    def until_ready(self, told: int | None) -> None:
        """Wait until the service is ready, and another engine has recovered since `told` had."""
        ready = self.service.is_ready
        eventually("ready again", lambda: (told is None or len(self._told()) > told) and ready(), SETTLE_SECONDS)

    def _feed_until(self, reached: Callable[[], bool], what: str) -> None:
        """Send uploads, at most two a second, until something has happened."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while not reached():
            assert time.monotonic() < deadline, f"never happened: {what}"
            self.feed(2)
            pause = time.monotonic() + 1.0
            while time.monotonic() < pause and not reached():
                time.sleep(0.02)

    def _kill(self, parts: Sequence[str]) -> None:
        if "serve" in parts:
            self.service.stop(signal.SIGKILL)
            self.service.start()
            return
        found = [eventually(f"{part} runs", lambda part=part: self.service.child(part)) for part in parts]
        for process in found:
            process.kill()
        for process in found:
            with suppress(psutil.NoSuchProcess):
                eventually(
                    "it is dead", lambda process=process: process.status() == psutil.STATUS_ZOMBIE or not process.is_running()
                )

    def _told(self) -> list[tuple[str, str, str]]:
        """What every engine so far said when it was ready: tokens counted again, seconds for that, seconds since it began."""
        return _READY.findall(self.service.log())

    # comparing

    def compare(self) -> None:
        """Wait until all that was acknowledged is counted, and see that it is counted once, and nothing else is."""
        self._look_for_abandoned()
        for number, upload_id in self.acknowledged.items():
            if upload_id not in self._counted:
                self._counted.add(upload_id)
                upload = self.stream.upload(number)
                corpus = f"abandoned-{number}" if number in self.abandoned else upload.corpus
                self.oracle.add(upload_id, corpus, upload.documents)
        assert len(set(self.acknowledged.values())) == len(self.acknowledged), "two uploads have the same id"
        tokens = int(self.oracle.tokens.sum())
        eventually(f"{tokens} tokens are counted and published", lambda: self._published() == tokens, SETTLE_SECONDS)
        # Published with the last token of a segment, which then ends, and with it its documents.
        eventually("every upload is counted", self._uploads_are_counted, SETTLE_SECONDS)
        self._compare_uploads()
        self._compare_pairs()
        compare_state(self.saved(), self.oracle)
        self._send_again()

    def _look_for_abandoned(self) -> None:
        """Whether uploads that nobody sent again were taken: then they are counted like any other."""
        for number in sorted(self.abandoned - set(self.acknowledged)):
            answer = self.service.http.get(f"/v1/corpora/abandoned-{number}")
            assert answer.status_code in (200, 404), answer.text
            if answer.status_code == 200:
                (item,) = answer.json()["items"]
                self.acknowledged[number] = item["id"]

    def _published(self) -> int | None:
        answer = self.service.http.get("/v1/status")
        status = answer.json() if answer.status_code == 200 else {}
        if not status.get("snapshot") or status["queue_tokens"]:
            return None
        return status["tokens"] if status["tokens"] == status["snapshot"]["tokens"] else None

    def _uploads_are_counted(self) -> bool:
        names = [item["name"] for item in self.service.get("/v1/corpora", limit=1000)["items"]]
        return not any(item["state"] == "counting" for name in names for item in self._uploads_of(name))

    def _compare_uploads(self) -> None:
        corpora = {item["name"]: item for item in self.service.get("/v1/corpora", limit=1000)["items"]}
        corpora = {name: item for name, item in corpora.items() if name not in self.failed}
        assert {name: item["tokens_counted"] for name, item in corpora.items()} == dict(self.oracle.corpora)
        for name in corpora:
            for item in self._uploads_of(name):
                counted = item["state"], item["tokens_received"], item["tokens_counted"], item["documents_counted"]
                tokens = self.oracle.uploads[item["id"]]
                assert counted == ("counted", tokens, tokens, self.oracle.documents[item["id"]]), item

    def _uploads_of(self, corpus: str) -> Iterator[Any]:
        cursor: dict[str, str] = {}
        while True:
            page = self.service.get(f"/v1/corpora/{corpus}", limit=1000, **cursor)
            yield from page["items"]
            if page["next"] is None:
                return
            cursor = {"cursor": page["next"]}

    def _compare_pairs(self) -> None:
        for _ in range(5):
            up, down = self.oracle.pairs[self.rng.integers(len(self.oracle.pairs))]
            i, j = (int(self.rng.integers(self.stream.sizes[layer])) for layer in (up, down))
            answer = self.service.get("/v1/similarity", up=f"{up}:{i}", down=f"{down}:{j}")
            fired = self.oracle.counts[up][i].sum(), self.oracle.counts[down][j].sum(), self.oracle.joint[up, down][i, j].sum()
            assert tuple(answer["counts"][name] for name in ("up", "down", "joint")) == fired
            squares = self.oracle.squares[up][i] * self.oracle.squares[down][j]
            cosine = self.oracle.products[up, down][i, j] / np.sqrt(squares) if squares else None
            assert answer["measures"]["activation_cosine"]["estimate"] == (
                None if cosine is None else pytest.approx(cosine, rel=1e-6)
            )

    def saved(self) -> State:
        """The state of all that is counted, from the checkpoint."""
        return eventually("it is saved", lambda: self._saved(int(self.oracle.tokens.sum())), SETTLE_SECONDS)

    def _saved(self, tokens: int) -> State | None:
        status = self.service.http.get("/v1/status").json()
        if not status["checkpoint"] or status["checkpoint"]["tokens"] != tokens:
            return None
        loaded = last_saved(self.service.data_dir)
        if loaded is None or loaded.state.tokens != tokens:
            return None
        # What is made where a segment ends must be in it, also where one of empty documents follows that adds no token.
        whole = not segment_path(self.service.data_dir / "log", loaded.cursor.segment).exists()
        return loaded.state if whole else None

    def _send_again(self) -> None:
        """What was acknowledged is sent again: nothing happens. The same key with other content is refused."""
        known = [number for number in self.acknowledged if number not in self.abandoned]
        for number in self.rng.choice(known, 2).tolist():
            upload = self.stream.upload(number)
            answer = self._post(upload)
            assert (answer.status_code, answer.json()["id"]) == (200, self.acknowledged[number]), answer.text
            self.repeated += 1
        answer = self._post(upload, body=self.stream.other(upload))
        assert answer.status_code == 409 and upload.key in answer.json()["detail"] and "retry-after" not in answer.headers, (
            answer.text
        )
        self.conflicts += 1


def last_saved(data_dir: Path) -> Loaded | None:
    """The newest checkpoint of a data directory."""
    run = msgspec.json.decode((data_dir / "run.json").read_bytes(), type=RunDescription)
    return Checkpoints(data_dir / "checkpoints").latest(run.fingerprint)


def compare_state(state: State, oracle: Oracle) -> None:
    """Every count of a state is the oracle's bit for bit, and float sums are within a relative 1e-6."""
    assert state.ledger.tokens_by_half == oracle.tokens.tolist()
    for layer, marginals in enumerate(state.marginals):
        np.testing.assert_array_equal(marginals.by_half, oracle.counts[layer], f"counts of layer {layer}")
        np.testing.assert_allclose(marginals.sum, oracle.sums[layer], rtol=1e-6)
        np.testing.assert_allclose(marginals.sum_of_squares, oracle.squares[layer], rtol=1e-6)
    for pair, table in state.pairs.items():
        assert isinstance(table, PairTable)
        np.testing.assert_array_equal(table.counts, oracle.joint[pair], f"counts of layer pair {pair}")
        np.testing.assert_allclose(table.products, oracle.products[pair], rtol=1e-6)
    for layer, part in enumerate(state.corpora):
        found = {corpus: sums.count.tolist() for corpus, sums in part.corpora.items()}
        expected = {corpus: counts[layer].tolist() for corpus, counts in oracle.corpus_counts.items() if oracle.corpora[corpus]}
        assert {corpus: counts for corpus, counts in found.items() if oracle.corpora[corpus]} == expected
    accounts = {upload: state.ledger.account(upload) for upload in oracle.uploads}
    assert {upload: account.tokens_counted for upload, account in accounts.items()} == dict(oracle.uploads)
    assert {upload: account.documents_counted for upload, account in accounts.items()} == dict(oracle.documents)
    assert set(state.ledger.uploads) <= set(oracle.uploads)

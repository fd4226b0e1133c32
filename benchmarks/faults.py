"""`python -m benchmarks.faults`: a long fault campaign. After each fault all counts must be the offline oracle's, or it ends there.

1. A run without a model: in rounds of another order each, every named step of writing a segment, a checkpoint and an upload is once
   the last one of its process; then kills at random moments, damaged files, a disk that fails, a clock that jumps.
2. The bundled model: a tenth of the kills.
3. A row for every kind of fault, appended to `results/faults.jsonl`. `--readme` puts the table made of the newest rows into the
   README, between its two comments.

The faults are those of `tests/faults`, whose short form `make test` runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import rows
from tests.faults.campaign import API_KILLS, ENGINE_KILLS, MODEL_KILLS, RANDOM_KILLS, Campaign, Fault, Outcome, campaign
from tests.faults.damage import CUTS, EVERYTHING, FLIPS
from tests.faults.streams import PushedStream, Stream, TextStream

log = logging.getLogger(__name__)

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- faults: made by `python -m benchmarks.faults --readme` -->", "<!-- faults end -->"
KILLS = 300

Act = Callable[[Campaign], Outcome]


def kill(fault: Fault) -> Act:
    return lambda run: run.strike(fault)


def pushed_round(rng: np.random.Generator) -> list[Act]:
    """Every fault of a run without a model, in an order of its own."""
    acts = [kill(fault) for fault in (*ENGINE_KILLS, *API_KILLS, *RANDOM_KILLS)]
    for name, action in (CUTS | FLIPS).items():
        acts.append(lambda run, name=name, action=action: run.damage(name, action))
    acts += [lambda run: run.fail_the_disk("ENOSPC"), lambda run: run.fail_the_disk("EIO")]
    acts += [lambda run, ahead=ahead: run.jump(ahead) for ahead in (3_600.0, -86_400.0)]
    return [acts[at] for at in rng.permutation(len(acts))]


def model_round(rng: np.random.Generator) -> list[Act]:
    """Every kill of the bundled model."""
    acts = [kill(fault) for fault in MODEL_KILLS]
    return [acts[at] for at in rng.permutation(len(acts))]


def rounds(make: Callable[[np.random.Generator], list[Act]], seed: int) -> Iterator[Act]:
    """One round after the other, without end."""
    rng = np.random.default_rng(seed)
    while True:
        yield from make(rng)


def drive(variant: str, stream: Stream, acts: Iterator[Act], kills: int, seed: int, folder: Path) -> list[dict[str, object]]:
    """Run a campaign of so many kills; its rows.

    Raises:
        AssertionError: after a fault something was not what it must be; the data directory stays.
    """
    began = time.monotonic()
    with campaign(folder / variant, stream, seed) as run:
        run.feed(8)
        if variant == "pushed":
            run.pin(((0, 3), (1, 3)), ((1, 0), (2, 8)))
        run.compare()
        while (done := sum(outcome.kills for outcome in run.outcomes)) < kills:
            outcome = next(acts)(run)
            log.info("%s %3d/%d  %-45s ready after %5.2f s", variant, done + outcome.kills, kills, outcome.name, outcome.ready)
        if variant == "pushed":
            for name, action in EVERYTHING.items():
                run.damage(name, action)
        total = {
            "seed": seed,
            "kills": sum(outcome.kills for outcome in run.outcomes),
            "uploads": len(run.acknowledged),
            "tokens": int(run.oracle.tokens.sum()),
            "resent": run.resent,
            "repeated": run.repeated,
            "conflicts": run.conflicts,
            "abandoned": len(run.abandoned),
            "abandoned_taken": len(run.abandoned & set(run.acknowledged)),
            "minutes": round((time.monotonic() - began) / 60, 1),
            "ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        found = [row(variant, kind, run.outcomes, total) for kind in dict.fromkeys(outcome.kind for outcome in run.outcomes)]
    return found


def row(variant: str, kind: str, outcomes: list[Outcome], total: dict[str, object]) -> dict[str, object]:
    """What all faults of a kind did."""
    of_kind = [outcome for outcome in outcomes if outcome.kind == kind]
    return {
        "benchmark": "faults",
        "variant": variant,
        "kind": kind,
        "faults": len(of_kind),
        "kills": sum(outcome.kills for outcome in of_kind),
        "ready_seconds": spread([outcome.ready for outcome in of_kind]),
        "start_seconds": spread([outcome.start for outcome in of_kind if outcome.start is not None]),
        "replay_seconds": spread([outcome.replay for outcome in of_kind if outcome.replay is not None]),
        "replayed_tokens": sum(outcome.replayed or 0 for outcome in of_kind),
        "campaign": total,
        "machine": rows.machine(),
        "date": total["ended"],
    }


def spread(seconds: list[float]) -> dict[str, float] | None:
    """Median and maximum; None of nothing."""
    return {"p50": round(statistics.median(seconds), 2), "max": round(max(seconds), 2)} if seconds else None


# the README's table

GUARANTEES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "the engine is killed (`kill -9`), at any moment or step of writing",
        ("engine",),
        "nothing acknowledged is lost or counted twice; it is started again and goes on from the newest checkpoint. `/readyz` is "
        "false from 10 s or three publish intervals after the kill until all is counted again that was",
    ),
    (
        "the API is killed",
        ("API",),
        "an upload that was on its way is there whole or not at all; sent again with its key it is one upload",
    ),
    ("engine and API are killed together", ("both",), "the same"),
    ("all processes are killed", ("all",), "the same after the next start"),
    ("Redis is killed or wiped", ("Redis",), "nothing but the views is in it: they are published anew"),
    (
        "the newest segment or checkpoint is cut off, a bit of any file flips",
        (*CUTS, *FLIPS),
        "a checksum finds it. A segment is made again from its uploads; the checkpoint before is used; what is there twice is "
        "written anew",
    ),
    ("no checkpoint can be used, and a segment neither", tuple(EVERYTHING), "all is counted again"),
    (
        "the disk is full or fails",
        ("disk fails: ENOSPC", "disk fails: EIO"),
        "uploads get 507 with Retry-After, the status says why, counting goes on from memory, and it passes by itself",
    ),
    ("the clock jumps", ("clock jumps",), "nothing: order, deadlines and pauses hang on no clock that can be set"),
)
IN_TESTS = (
    (
        "the power is cut",
        "what was acknowledged is on the disk: bytes, then name, then the answer",
        "at every step of writing, in the tests",
    ),
    (
        "an upload's body is damaged before it is counted",
        "the upload fails with the reason, and nothing of it is counted",
        "in the tests",
    ),
    (
        "a second server or engine on the same data directory",
        "it is refused and names the process, also while the first one is stopped (SIGSTOP)",
        "in the tests",
    ),
    (
        "files of another format version, or of a run with other settings",
        "the start is refused and says what differs; nothing is changed",
        "a file of each version is in the tests",
    ),
)


def newest(path: Path) -> list[dict]:
    """The rows of the newest campaign of each variant."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    dates = {one["variant"]: one["date"] for one in found}
    return [one for one in found if one["date"] == dates[one["variant"]]]


def table(found: list[dict]) -> str:
    """The guarantees with the figures of a campaign, as Markdown."""
    campaigns = list({one["variant"]: one["campaign"] for one in found}.values())
    kills, uploads, tokens, resent = (sum(one[name] for one in campaigns) for name in ("kills", "uploads", "tokens", "resent"))
    lines = [
        f"The last long campaign ({found[0]['date'][:10]}, `make faults`): {kills:,} kills, {uploads:,} uploads of {tokens:,} "
        f"tokens, {resent:,} attempts sent again. After every fault all counts were those of an offline count, bit for bit.",
        "",
        "| what happens | what is guaranteed | in that campaign |",
        "|---|---|---|",
    ]
    for what, kinds, guarantee in GUARANTEES:
        lines.append(f"| {what} | {guarantee} | {figures([one for one in found if one['kind'] in kinds])} |")
    lines += [f"| {what} | {guarantee} | {where} |" for what, guarantee, where in IN_TESTS]
    return "\n".join(lines)


def figures(found: list[dict]) -> str:
    """How often, how long until ready (without a model, and of the bundled one), and what was counted again."""
    if not found:
        return "not in it"
    times = sum(one["faults"] for one in found)
    parts = ["once" if times == 1 else f"{times:,} times"]
    for variant, of in (("pushed", "without a model"), ("model", "with the bundled one")):
        of_it = [one for one in found if one["variant"] == variant]
        if of_it:
            # Of several kinds the median of their medians, each as often as there were faults of it.
            median = statistics.median(one["ready_seconds"]["p50"] for one in of_it for _ in range(one["faults"]))
            most = max(one["ready_seconds"]["max"] for one in of_it)
            parts.append(f"ready after {median:.1f} s, at most {most:.1f} ({of})")
    if replayed := sum(one["replayed_tokens"] for one in found):
        parts.append(f"{replayed:,} tokens counted again")
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=KILLS, help="in all; a tenth of them on the bundled model")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--readme", action="store_true", help="put the table of the newest rows into the README, and run nothing")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("engine").setLevel(logging.ERROR)
    if options.readme:
        before, rest = README.read_text(encoding="utf-8").split(BEGIN)
        made = table(newest(rows.RESULTS / "faults.jsonl"))
        README.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
        return
    seed, of_model = options.seed, options.kills // 10
    folder = Path(tempfile.mkdtemp(prefix="saestream-faults-"))
    log.info("in %s", folder)
    found = drive("pushed", PushedStream(seed), rounds(pushed_round, seed), options.kills - of_model, seed, folder)
    if of_model:
        found += drive("model", TextStream(seed), rounds(model_round, seed), of_model, seed, folder)
    rows.append(found)


if __name__ == "__main__":
    main()

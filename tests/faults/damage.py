"""What is done to the files of a run while its engine is down, by name: each is a case of the campaign."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.campaign import Campaign

Damage = Callable[["Campaign"], None]


def cut_off(run: Campaign, path: Path) -> None:
    """Shorten a file to a random length."""
    os.truncate(path, int(run.rng.integers(path.stat().st_size)))


def flip(run: Campaign, path: Path) -> None:
    """Flip a random bit of a file."""
    content = bytearray(path.read_bytes())
    content[run.rng.integers(len(content))] ^= 1 << int(run.rng.integers(8))
    path.write_bytes(content)


def newest_segment(run: Campaign) -> Path:
    return max((run.service.data_dir / "log").glob("*.seg"))


def old_segment(run: Campaign) -> Path:
    """One that every checkpoint has counted."""
    return min((run.service.data_dir / "log").glob("*.seg"))


def newest_manifest(run: Campaign) -> Path:
    return max((run.service.data_dir / "checkpoints").glob("*.manifest"))


def checkpoint_file(run: Campaign) -> Path:
    """One of the newest checkpoint, by chance."""
    files = sorted(newest_manifest(run).with_suffix("").iterdir())
    return files[run.rng.integers(len(files))]


def both(damage: Callable[[Campaign, Path], None]) -> Damage:
    def act(run: Campaign) -> None:
        damage(run, newest_segment(run))
        damage(run, checkpoint_file(run))

    return act


def receipts(run: Campaign) -> None:
    for path in (run.service.data_dir / "inbox" / "uploads").glob("*/manifest"):
        flip(run, path)


def no_checkpoint(run: Campaign) -> None:
    """No checkpoint can be used, and a segment of the log is damaged, too."""
    for path in (run.service.data_dir / "checkpoints").glob("*.manifest"):
        flip(run, path)
    flip(run, old_segment(run))


CUTS: dict[str, Damage] = {
    "newest segment cut off": lambda run: cut_off(run, newest_segment(run)),
    "newest checkpoint cut off": lambda run: cut_off(run, checkpoint_file(run)),
    "newest segment and checkpoint cut off": both(cut_off),
}
FLIPS: dict[str, Damage] = {
    "bits of newest segment and checkpoint": both(flip),
    "bit of an old segment": lambda run: flip(run, old_segment(run)),
    "bit of the newest checkpoint": lambda run: flip(run, checkpoint_file(run)),
    "bit of the newest manifest": lambda run: flip(run, newest_manifest(run)),
    "bits of the manifests of all uploads": receipts,
    "bit of the pins": lambda run: flip(run, run.service.data_dir / "watch"),
    "bit of run.json": lambda run: flip(run, run.service.data_dir / "run.json"),
}
EVERYTHING: dict[str, Damage] = {"all checkpoints and a segment": no_checkpoint}

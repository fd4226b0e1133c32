"""Every format of a file that a run goes on from: how one is made, and what is read out of it.

    python -m tests.golden.formats      writes a golden file of each current version that has none yet; those that are there stay

`NAME-vVERSION.bin` is the file, `NAME-vVERSION.json` what it must decode to.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from engine import calibration
from engine.calibration import FrozenThresholds
from engine.corpus import manifest as receipt
from engine.corpus import segment_file
from engine.corpus.builder import ActivationBuilder, TokenBuilder
from engine.corpus.inbox import Inbox, Manifest
from engine.corpus.segment import LayerActivations, Segment
from engine.counts import bounded_file, checkpoint, table_file
from engine.counts.checkpoint import Checkpoints, Cursor
from engine.counts.part import FramedPart, StatePart
from engine.counts.shape import RowSlots, RunShape
from engine.counts.state import State
from engine.errors import DamagedFile, DroppedSegment
from engine.views import watch
from engine.views.watch import Watch
from tests.corpus_rig import lines, upload
from tests.counts_stream import add, contents, documents, zero

GOLDEN = Path(__file__).parent
SHAPE = RunShape.of((5, 3), [(0, 1)], 0.25, gate_candidates=2)
STREAM = documents(seed=4, lengths=(4, 1, 0, 6), dictionaries=SHAPE.dictionaries)
TABLES = {"pairs": table_file.VERSION, "bounded_pairs": bounded_file.VERSION}
RUN = {"weights": "sha256:12", "threshold": "0.25"}


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        version: the current one.
        make: writes one under this path.
        read: everything that is in one, as the code that goes on from it sees it.
    """

    name: str
    version: int
    make: Callable[[Path], object]
    read: Callable[[Path], Any]

    def golden(self, version: int) -> Path:
        return GOLDEN / f"{self.name}-v{version}.bin"


def plain(value: Any) -> Any:
    """A value as JSON: arrays as type and numbers, bytes in base 64, structs and dataclasses as objects."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape), "values": value.ravel().tolist()}
    if is_dataclass(value):
        value = vars(value)
    elif isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "array"):
        return plain(value.array())
    return value.item() if isinstance(value, np.generic) else value


def part_format(kind: type[StatePart]) -> Format:
    """The format of a part of the state, at its first place."""
    shape = SHAPE if kind.places(SHAPE) else SHAPE.with_bounded({(0, 1): RowSlots(3, 3)})
    place = kind.places(shape)[0]

    def make(path: Path) -> None:
        part = zero(kind, shape, place)
        add(part, STREAM)
        part.save(path)

    version = kind.version if issubclass(kind, FramedPart) else TABLES[kind.kind]
    return Format(kind.kind, version, make, lambda path: contents(kind.load(shape, place, path)))


def tokens() -> Segment:
    """A segment of two uploads; one is finished, of the other a document is cut."""
    builder = TokenBuilder(4)
    builder.add(manifest("first"), 0, "a name", 1, 0, np.arange(7, dtype=np.int32), True)
    builder.finish("first")
    builder.add(manifest("second"), 2, None, 0, 8, np.arange(50, 54, dtype=np.int32), False)
    builder.fail("third", "its body is damaged")
    return builder.seal(3, 1_000)


def activations() -> Segment:
    """A segment of activations of two layers."""
    builder = ActivationBuilder(2)
    one = LayerActivations(np.array([0, 2, 3]), np.array([0, 4, 1], np.int32), np.array([0.5, 1.25, 2], np.float32))
    none = LayerActivations(np.zeros(3, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
    builder.add(manifest("first"), 0, "a name", 1, 0, 2, [one, none], True)
    builder.finish("first")
    return builder.seal(0, 0)


def manifest(name: str) -> Manifest:
    return Manifest(name, "corpora", "books", None, "", "text/plain", 0, 9, 0.0)


def segment_format(name: str, sealed: Callable[[], Segment]) -> Format:
    def make(path: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            segment = sealed()
            segment_file.write_segment(Path(folder), segment)
            shutil.copy(segment_file.segment_path(Path(folder), segment.number), path)

    def read(path: Path) -> Any:
        number = sealed().number
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(path, segment_file.segment_path(Path(folder), number))
            header = segment_file.read_segment_header(Path(folder), number)
            return {"header": header, "segment": segment_file.read_segment(Path(folder), number)}

    return Format(name, segment_file.VERSION, make, read)


def make_dropped(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        segment_file.drop_content(Path(folder), segment_file.write_segment(Path(folder), activations()))
        shutil.copy(segment_file.segment_path(Path(folder), 0), path)


def read_dropped(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, segment_file.segment_path(Path(folder), 0))
        header = segment_file.read_segment_header(Path(folder), 0)
        try:
            return {"header": header, "segment": segment_file.read_segment(Path(folder), 0)}
        except DroppedSegment:
            return {"header": header}


def make_checkpoint(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Checkpoints(Path(folder)).save(State.of_shape(SHAPE), Cursor(3, 2), RUN, {"convergence": b"series", "log": b"index"})
        shutil.copy(Path(folder) / "00000001.manifest", path)


def read_checkpoint(path: Path) -> Any:
    """What of a manifest is known before its files are read."""
    found: dict[str, Any] = {}

    def accept(cursor: Cursor, extras: Mapping[str, bytes]) -> None:
        found.update(cursor=cursor, extras=dict(extras))
        raise DamagedFile("seen")

    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, Path(folder) / "00000001.manifest")
        checkpoints = Checkpoints(Path(folder))
        found["fingerprint"] = checkpoints.fingerprint()
        assert checkpoints.latest(RUN, accept=accept) is None
    return found


UPLOAD_NAMES = {1: "manifest.json", 2: "manifest"}


def make_receipt(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        taken = Inbox(Path(folder))
        sent = upload(taken, lines({"text": "one"}), key="a key")
        shutil.copy(taken.body(sent.id).with_name("manifest"), path)


def read_receipt(path: Path) -> Any:
    version = int(path.stem.rpartition("-v")[2])
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "uploads" / ("0" * 26)
        there.mkdir(parents=True)
        shutil.copy(path, there / UPLOAD_NAMES.get(version, "manifest"))
        return Inbox(Path(folder)).manifests()


def make_pins(path: Path) -> None:
    Watch(path, 100, SHAPE.pairs).pin([(0, 1, 1, 2), (0, 3, 1, 0)], 4, 500)


def read_pins(path: Path) -> Any:
    pins = Watch(path, 100, SHAPE.pairs)
    return sorted((*pair, since) for pair, since in pins.pinned_at(list(pins.pinned)).items())


def make_thresholds(path: Path) -> None:
    maxima = tuple(np.arange(size, dtype=np.float32) for size in SHAPE.dictionaries)
    FrozenThresholds(0.2, 500, 640, 2, maxima, tuple(calibration.share(0.2, maximum) for maximum in maxima)).save(path, RUN)


FORMATS = [
    *(part_format(kind) for _, kind in sorted(StatePart.registered.items())),
    segment_format("segment-tokens", tokens),
    segment_format("segment-activations", activations),
    Format("segment-dropped", segment_file.HEADER_ALONE, make_dropped, read_dropped),
    Format("checkpoint", checkpoint.VERSION, make_checkpoint, read_checkpoint),
    Format("receipt", receipt.VERSION, make_receipt, read_receipt),
    Format("pins", watch.VERSION, make_pins, read_pins),
    Format("thresholds", calibration.VERSION, make_thresholds, lambda path: FrozenThresholds.load(path, RUN)),
]


def main() -> None:
    for one in FORMATS:
        path = one.golden(one.version)
        if not path.exists():
            one.make(path)
            path.with_suffix(".json").write_text(json.dumps(plain(one.read(path))) + "\n")


if __name__ == "__main__":
    main()

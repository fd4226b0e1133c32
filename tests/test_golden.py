"""Files that earlier versions wrote: decoded to what they held, or refused by their version, and never taken for damaged."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import pytest

from engine.errors import DamagedFile, UnknownVersion
from tests.golden.formats import FORMATS, GOLDEN, Format, plain

FILES = sorted(GOLDEN.glob("*.bin"))
BY_NAME = {one.name: one for one in FORMATS}
REFUSED = {"ledger-v1", "marginals-v1", "pairs-v1", "strongest-v1"}
"""Golden files of versions that are not read any more, by name: a run that holds one is refused, see `UnknownVersion`."""


GIVEN_UP = {"thresholds": None, "checkpoint": {"fingerprint": None}}
"""What is read of a damaged file where that is no error: the run goes on without it."""


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_every_format_has_a_golden_file_of_its_current_version(one: Format) -> None:
    assert one.golden(one.version).exists(), "write it with `python -m tests.golden.formats`, and leave the older ones as they are"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_golden_file_decodes_to_what_it_held(path: Path) -> None:
    one = BY_NAME[path.stem.rpartition("-v")[0]]
    if path.stem in REFUSED:
        with pytest.raises(UnknownVersion, match=f"this saestream reads {one.version}"):
            one.read(path)
    else:
        assert plain(one.read(path)) == json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_a_version_that_is_not_known_is_refused_and_a_damaged_one_is_not_taken_for_it(one: Format, tmp_path: Path) -> None:
    whole = one.golden(one.version).read_bytes()
    other, damaged = bytearray(whole), bytearray(whole)
    for at in (0, len(whole) // 2) if one.name in ("receipt", "pins") else (0,):  # a record lies there twice
        struct.pack_into("<I", other, at + 8, 99)
        struct.pack_into("<I", damaged, at + 8, 99)
        end = at + 20 + struct.unpack_from("<Q", whole, at + 12)[0]
        struct.pack_into("<I", other, end, zlib.crc32(other[at:end]))
    path = tmp_path / f"{one.name}-v{one.version}.bin"
    path.write_bytes(other)
    with pytest.raises(UnknownVersion, match="has format version 99; this saestream reads"):
        one.read(path)
    path.write_bytes(damaged)
    if one.name in GIVEN_UP:
        assert one.read(path) == GIVEN_UP[one.name]
    else:
        with pytest.raises(DamagedFile) as caught:
            one.read(path)
        assert not isinstance(caught.value, UnknownVersion)

"""Windows, segments and the log: what is sealed is read back, located, and never changes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from corpus_rig import DICTIONARIES, FailingDisk, no_space
from hypothesis import given
from hypothesis import strategies as st

from engine import durable
from engine.corpus.builder import ActivationBuilder, TokenBuilder
from engine.corpus.inbox import Manifest
from engine.corpus.log import CorpusLog, LogIndex, Place, UploadProgress
from engine.corpus.segment import ActivationSegment, LayerActivations, Segment, TokenSegment
from engine.corpus.windows import content_size, cut_windows, length_bucket
from engine.errors import DamagedFile, StorageFull, Unknown, UnknownVersion

CONTENT = 7


def manifest(name: str, corpus: str = "books") -> Manifest:
    return Manifest(name, "corpora", corpus, None, "", "text/plain", 0, 9, 0.0)


def ids(count: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int32)


def token_builder() -> TokenBuilder:
    """Two uploads: documents of 17 tokens (in two parts), 0 and 7; and the beginning of a long one."""
    builder = TokenBuilder(CONTENT)
    builder.add(manifest("u1"), 0, "é", 1, 0, ids(14), False)
    builder.add(manifest("u1"), 0, "é", 1, 14, ids(3, 14), True)
    builder.add(manifest("u1"), 1, None, 0, 0, ids(0), True)
    builder.add(manifest("u2", "films"), 0, "", 0, 21, ids(14, 50), False)
    builder.add(manifest("u1"), 2, "last", 0, 0, ids(7, 100), True)
    builder.finish("u1")
    return builder


def activation_builder() -> ActivationBuilder:
    builder = ActivationBuilder(len(DICTIONARIES))
    for start, tokens, last in ((0, 3, False), (3, 0, False), (3, 2, True)):
        layers = [
            LayerActivations(
                offsets=np.arange(tokens + 1, dtype=np.int32) * entries,
                features=np.tile(np.arange(entries, dtype=np.int32), tokens),
                values=np.arange(tokens * entries, dtype=np.float32) + start + 1,
            )
            for entries in (2, 0)
        ]
        builder.add(manifest("p"), 0, "doc", 1, start, tokens, layers, last)
    builder.finish("p")
    return builder


def assert_same(found: Segment, expected: Segment) -> None:
    assert type(found) is type(expected)
    for name in ("number", "first_position", "pieces", "finished", "failed", "token_count", "units"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.unit_bounds(), expected.unit_bounds())
    np.testing.assert_array_equal(found.unit_order, expected.unit_order)
    if isinstance(found, TokenSegment) and isinstance(expected, TokenSegment):
        np.testing.assert_array_equal(found.tokens, expected.tokens)
        np.testing.assert_array_equal(found.window_pieces, expected.window_pieces)
        assert found.tokens.dtype == np.int32 == found.window_offsets.dtype == found.window_pieces.dtype
    if isinstance(found, ActivationSegment) and isinstance(expected, ActivationSegment):
        np.testing.assert_array_equal(found.unit_pieces, expected.unit_pieces)
        for one, other in zip(found.layers, expected.layers, strict=True):
            assert (one.offsets.dtype, one.features.dtype, one.values.dtype) == (np.int64, np.int32, np.float32)
            for name in one._fields:
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 12))
def test_windows_cut_every_piece_from_its_start_into_parts_of_the_content_size(pieces: list[int], content: int) -> None:
    expected, at = [], 0
    for index, tokens in enumerate(pieces):
        expected += [(at + start, min(content, tokens - start), index) for start in range(0, tokens, content)]
        at += tokens
    offsets, of_piece = cut_windows(np.array(pieces, dtype=np.int64), content)
    assert list(zip(offsets[:-1].tolist(), np.diff(offsets).tolist(), of_piece.tolist(), strict=True)) == expected
    assert offsets[0] == 0 and offsets[-1] == sum(pieces)


def test_a_bos_takes_one_place_of_the_context() -> None:
    assert (content_size(128, True), content_size(128, False)) == (127, 128)


def test_buckets_are_powers_of_two_from_16_with_room_for_a_bos() -> None:
    assert length_bucket(np.array([1, 15, 16, 31, 32, 127, 1023])).tolist() == [16, 16, 32, 32, 64, 128, 1024]


def test_a_segment_joins_what_turns_have_divided_and_orders_windows_by_length() -> None:
    segment = token_builder().seal(3, 1000)
    assert [(piece.upload, piece.number, piece.start, piece.tokens, piece.last) for piece in segment.pieces] == [
        ("u1", 0, 0, 17, True),
        ("u1", 1, 0, 0, True),
        ("u2", 0, 21, 14, False),
        ("u1", 2, 0, 7, True),
    ]
    assert segment.window_offsets.tolist() == [0, 7, 14, 17, 24, 31, 38] and segment.window_pieces.tolist() == [0, 0, 0, 2, 2, 3]
    assert segment.unit_tokens([2, 0]).tolist() == [3, 7] and (segment.units, segment.token_count) == (6, 38)
    long = TokenBuilder(40)
    for number, tokens in enumerate((40, 3, 20, 5, 40)):
        long.add(manifest("u"), number, None, 0, 0, ids(tokens), True)
    assert long.seal(0, 0).unit_order.tolist() == [1, 3, 2, 0, 4]


def test_both_kinds_of_segment_are_read_back_as_they_were_sealed(tmp_path: Path) -> None:
    log = CorpusLog(tmp_path)
    expected = [token_builder().seal(0, 0), activation_builder().seal(1, 38), TokenBuilder(CONTENT).seal(2, 43)]
    for number, builder in enumerate((token_builder(), activation_builder(), TokenBuilder(CONTENT))):
        assert log.append(builder) == number
    for reader in (log, CorpusLog(tmp_path)):
        assert (reader.last, reader.sealed_tokens, reader.end_position(0), reader.end_position(-1)) == (2, 43, 38, 0)
        for number, segment in enumerate(expected):
            assert_same(reader.read(number), segment)
            header = reader.header(number)
            assert (header.kind, header.units, header.first_position) == (segment.kind, segment.units, segment.first_position)
        assert reader.next_segment(3) is None
    assert [piece.tokens for piece in expected[1].pieces] == [5] and expected[1].unit_bounds().tolist() == [0, 3, 5]


def test_the_progress_of_every_upload_is_known_from_the_headers_alone(tmp_path: Path) -> None:
    log = CorpusLog(tmp_path)
    log.append(token_builder())
    broken = TokenBuilder(CONTENT)
    broken.add(manifest("u2", "films"), 0, "", 0, 35, ids(5), True)
    broken.add(manifest("u2", "films"), 1, "", 0, 0, ids(2), True)
    broken.fail("u2", "its body cannot be read")
    broken.fail("u3", "not for this run")
    log.append(broken)
    index = LogIndex()
    for number in range(2):
        index.take(log.header(number))
    known = LogIndex.unpack(index.pack())
    assert known == index and known.tokens == log.sealed_tokens
    read = CorpusLog(tmp_path)
    for path in tmp_path.glob("*.seg"):  # what is counted is not needed for it
        path.write_bytes(b"nothing")
    for reader in (log, read, CorpusLog(tmp_path, known)):
        assert reader.progress("u1") == UploadProgress(3, 24, (3, 0), True, None) and reader.progress("u1").ended
        assert (
            reader.progress("u2") == UploadProgress(2, 21, (2, 0), False, "its body cannot be read") and reader.progress("u2").ended
        )
        assert reader.progress("u3") == UploadProgress(0, 0, (0, 0), False, "not for this run")
        assert reader.progress("u4") == UploadProgress() and not reader.progress("u4").ended


def test_locate_is_the_inverse_of_the_position_for_every_token(tmp_path: Path) -> None:
    log = CorpusLog(tmp_path)
    empty = TokenBuilder(CONTENT)
    empty.fail("u", "why not")
    for builder in (empty, token_builder(), empty, activation_builder(), token_builder(), empty):
        log.append(builder)
    seen = []
    for number in range(log.last + 1):
        segment = log.read(number)
        bounds = segment.unit_bounds()
        for unit in range(segment.units):
            for offset in range(int(bounds[unit + 1] - bounds[unit])):
                position = segment.first_position + int(bounds[unit]) + offset
                assert log.locate(position) == Place(number, unit, offset)
                seen.append(position)
    assert seen == list(range(log.sealed_tokens)) and len(seen) == 81
    for position in (-1, 81):
        with pytest.raises(Unknown, match=rf"position {position} .* 0 to 80"):
            log.locate(position)


def test_what_is_not_sealed_is_unknown(tmp_path: Path) -> None:
    log = CorpusLog(tmp_path)
    assert (log.last, log.sealed_tokens) == (-1, 0)
    for number in (-1, 0):
        with pytest.raises(Unknown, match=f"segment {number} of the corpus log"):
            log.read(number)


def test_a_full_disk_at_any_step_leaves_the_log_as_it_was_and_the_builder_can_be_sealed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CorpusLog(tmp_path)
    log.append(token_builder())
    builder = activation_builder()
    for step in range(12):
        monkeypatch.setattr(durable, "disk", FailingDisk(step, no_space))
        with pytest.raises(StorageFull):
            log.append(builder)
        monkeypatch.undo()
        assert (log.last, log.sealed_tokens, log.progress("p")) == (0, 38, UploadProgress())
        assert [path.name for path in tmp_path.iterdir()] == ["00000000.seg"]
    assert log.append(builder) == 1
    assert_same(CorpusLog(tmp_path).read(1), activation_builder().seal(1, 38))


def test_a_half_written_segment_of_a_crash_is_removed(tmp_path: Path) -> None:
    CorpusLog(tmp_path).append(token_builder())
    durable.PendingFile(tmp_path / "00000001.seg").write(b"half")
    log = CorpusLog(tmp_path)
    assert log.last == 0 and log.append(activation_builder()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000.seg", "00000001.seg"]


DAMAGES = {
    "payload": (lambda path, whole: path.write_bytes(whole[:-100] + b"\xff" * 100), r"00000001.seg is damaged or cut off"),
    "cut off": (lambda path, whole: path.write_bytes(whole[:20]), r"00000001.seg is cut off"),
    "renamed": (
        lambda path, whole: path.write_bytes((path.parent / "00000000.seg").read_bytes()),
        r"00000001.seg holds segment 0, by its name it must hold 1",
    ),
    "missing": (lambda path, whole: path.unlink(), "has no segment 1, though it has later ones"),
}


@pytest.mark.parametrize("damage, reason", DAMAGES.values(), ids=DAMAGES)
def test_a_log_ends_before_a_damaged_segment_unless_that_is_counted_and_its_place_is_sealed_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path, bytes], object], reason: str
) -> None:
    log = CorpusLog(tmp_path)
    index = LogIndex()
    for number in range(4):
        log.append(token_builder())
        if number < 2:
            index.take(log.header(number))
    second = tmp_path / "00000001.seg"
    damage(second, second.read_bytes())
    counted = CorpusLog(tmp_path, index)
    assert (counted.last, counted.progress("u1")) == (3, log.progress("u1"))
    with pytest.raises((DamagedFile, FileNotFoundError), match=r"00000001\.seg"):
        counted.read(1)
    assert not caplog.text and len(list(tmp_path.glob("*.damaged"))) == 0
    cut = CorpusLog(tmp_path)
    assert (cut.last, cut.sealed_tokens) == (0, log.end_position(0)) and re.search(reason, caplog.text)
    kept = {f"0000000{number}.seg.damaged" for number in ((2, 3) if reason.startswith("has no") else (1, 2, 3))}
    assert {path.name for path in tmp_path.iterdir()} == {"00000000.seg", *kept}
    assert cut.append(activation_builder()) == 1
    assert_same(CorpusLog(tmp_path).read(1), activation_builder().seal(1, log.end_position(0)))
    assert CorpusLog.first(tmp_path) == 0 == CorpusLog.first(tmp_path / "nothing")


def test_a_segment_of_an_unknown_version_is_no_damage_and_refused(tmp_path: Path) -> None:
    log = CorpusLog(tmp_path)
    for _ in range(2):
        log.append(token_builder())
    durable.write_framed(tmp_path / "00000000.seg", b"SAESEGMT", 7, {}, {})
    with pytest.raises(UnknownVersion, match=r"00000000\.seg has format version 7; this saestream reads 1"):
        CorpusLog(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000.seg", "00000001.seg"]

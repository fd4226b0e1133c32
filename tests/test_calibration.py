"""Calibration: the maxima over the start of the log, where that start ends, and the file that freezes what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from service import sparse

from engine import durable
from engine.calibration import Calibration, FrozenThresholds, share
from engine.corpus.segment import ActivationSegment, LayerActivations, Piece
from engine.counts.shape import RunShape
from engine.encoder.pushed import PushedActivations
from engine.errors import OtherRun, UnknownVersion
from engine.main import fingerprint
from engine.settings import load

SIZES = (7, 5)
ENOUGH = 1_000_000
Document = tuple[str, list[np.ndarray]]
"""Upload, and dense activations float32 `[T, D]` per layer."""


def document(upload: str, tokens: int, seed: int = 0, scale: float = 1.0) -> Document:
    """Feature 0 never fires, feature 1 always does."""
    rng = np.random.default_rng(seed)
    layers = []
    for size in SIZES:
        dense = (scale * rng.exponential(1.0, (tokens, size)) * (rng.random((tokens, size)) < 0.4)).astype(np.float32)
        dense[:, 0], dense[:, 1] = 0, scale * (0.5 + rng.random(tokens))
        layers.append(dense)
    return upload, layers


def broken(upload: str, tokens: int) -> Document:
    """A document that is set aside: a NaN, beside activations larger than all others."""
    _, layers = document(upload, tokens, scale=100.0)
    layers[1][0, 1] = np.nan
    return upload, layers


def segment(
    number: int, documents: Sequence[Document], finished: Sequence[str] = (), failed: Mapping[str, str] | None = None
) -> ActivationSegment:
    """One piece and one unit per document."""
    lengths = [len(layers[0]) for _, layers in documents]
    pieces = [Piece(upload, "corpus", at, None, 0, 0, lengths[at], True) for at, (upload, _) in enumerate(documents)]
    none = [np.zeros((0, size), np.float32) for size in SIZES]
    rows = [np.concatenate([none[at], *(layers[at] for _, layers in documents)]) for at in range(len(SIZES))]
    return ActivationSegment(
        number,
        1_000 * number,
        tuple(pieces),
        tuple(finished),
        failed or {},
        layers=tuple(LayerActivations(*sparse(dense)) for dense in rows),
        unit_offsets=np.cumsum([0, *lengths]).astype(np.int32),
        unit_pieces=np.arange(len(documents), dtype=np.int32),
    )


def calibrated(segments: Sequence[ActivationSegment], wanted: int = ENOUGH, *, units_at_once: int = 100) -> Calibration:
    """A calibration over these segments until it is enough, as the pass does it."""
    calibration, encoder = Calibration(SIZES, wanted), PushedActivations(SIZES)
    for one in segments:
        if calibration.done:
            break
        for first in range(0, one.units, units_at_once):
            calibration.add(encoder.encode(one, one.unit_order[first : first + units_at_once]).batch)
        calibration.finish(one)
    return calibration


def assert_maxima(calibration: Calibration, documents: Sequence[Document]) -> None:
    """Those of these documents, and no others were looked at."""
    assert calibration.tokens == sum(len(layers[0]) for _, layers in documents)
    for layer, maximum in enumerate(calibration.maxima):
        assert np.array_equal(maximum, np.concatenate([layers[layer] for _, layers in documents]).max(0))


@pytest.mark.parametrize("units_at_once", [1, 2, 100], ids=["unit by unit", "two at once", "all at once"])
def test_the_maxima_are_those_of_all_tokens_whatever_a_micro_batch_is(units_at_once: int) -> None:
    documents = [document("a", tokens, seed) for seed, tokens in enumerate([3, 1, 9, 4, 2])]
    segments = [segment(0, documents[:3]), segment(1, documents[3:], finished=["a"])]
    calibration = calibrated(segments, units_at_once=units_at_once)
    assert calibration.done
    assert_maxima(calibration, documents)
    assert calibration.status().never_fired == [1, 1]


def test_it_is_enough_at_the_end_of_the_segment_in_which_the_tokens_were_reached_and_not_before() -> None:
    documents = [document("a", 5, seed) for seed in range(6)]
    segments = [segment(at, documents[2 * at : 2 * at + 2]) for at in range(3)]
    assert not calibrated(segments[:1], wanted=11).done
    assert calibrated(segments[:1], wanted=10).done
    assert_maxima(calibrated(segments, wanted=11), documents[:4])


def test_the_first_upload_ends_it_and_a_later_one_that_ends_earlier_does_not() -> None:
    first, other = [document("first", 5, seed) for seed in range(2)], [document("other", 4, seed, scale=9.0) for seed in range(2)]
    segments = [segment(0, [first[0], other[0]], finished=["other"]), segment(1, [first[1]], finished=["first"])]
    assert not calibrated(segments[:1]).done
    assert_maxima(calibrated([*segments, segment(2, [other[1]])]), [first[0], other[0], first[1]])


def test_an_upload_that_left_no_token_is_not_the_first_one() -> None:
    kept = document("kept", 6)
    segments = [
        segment(0, [broken("aside", 3), document("empty", 0)], finished=["aside", "empty"]),
        segment(1, [], failed={"unreadable": "its body cannot be read"}),
        segment(2, [broken("kept", 4), kept], finished=["kept"]),
    ]
    calibration = calibrated(segments[:2])
    assert (calibration.done, calibration.tokens, calibration.segments) == (False, 0, 2)
    assert_maxima(calibrated(segments), [kept])


def test_a_first_upload_that_is_given_up_in_the_middle_ends_it_with_what_came_of_it() -> None:
    came = document("a", 6)
    calibration = calibrated([segment(0, [came]), segment(1, [], failed={"a": "its body cannot be read"})])
    assert calibration.done
    assert_maxima(calibration, [came])


@pytest.mark.parametrize("ratio", [0.2, 0.5, 1e-30, np.nextafter(1.0, 0.0)], ids=["paper", "half", "tiny", "almost 1"])
def test_a_threshold_is_the_share_of_the_maximum_which_stays_above_it(ratio: float) -> None:
    maxima = np.array([0.0, 1e-45, 1e-20, 0.1, 1.0, 3.7, 1e30], np.float32)
    thresholds = share(ratio, maxima)
    assert thresholds.dtype == np.float32
    assert thresholds[0] == 0
    assert (thresholds[1:] < maxima[1:]).all()
    assert np.allclose(thresholds, ratio * maxima.astype(np.float64), rtol=2e-7, atol=2e-45)


def test_what_was_frozen_comes_back_as_it_was(tmp_path: Path) -> None:
    calibration = calibrated([segment(0, [document("a", 40)], finished=["a"])], wanted=500)
    frozen = calibration.freeze(0.2)
    for maximum, threshold in zip(frozen.maxima, frozen.thresholds, strict=True):
        assert np.array_equal(threshold, (0.2 * maximum.astype(np.float64)).astype(np.float32))
    path = tmp_path / "thresholds"
    assert FrozenThresholds.load(path, {"weights": "1"}) is None
    frozen.save(path, {"weights": "1"})
    loaded = FrozenThresholds.load(path, {"weights": "1"})
    assert loaded is not None
    assert (loaded.ratio, loaded.calibration_tokens, loaded.tokens, loaded.segments) == (0.2, 500, 40, 1)
    assert all(map(np.array_equal, (*loaded.maxima, *loaded.thresholds), (*frozen.maxima, *frozen.thresholds)))
    assert loaded.status() == frozen.status()
    assert frozen.status().done and frozen.status().never_fired == [1, 1]
    shape = RunShape.of(SIZES, None, loaded.thresholds)
    assert all(
        torch.equal(ours, torch.from_numpy(theirs)) for ours, theirs in zip(shape.thresholds, frozen.thresholds, strict=True)
    )


def test_thresholds_of_another_run_or_format_are_refused_and_a_damaged_file_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "thresholds"
    calibrated([segment(0, [document("a", 4)], finished=["a"])]).freeze(0.2).save(path, {"threshold": "0.2max"})
    with pytest.raises(OtherRun, match=r"threshold: 0\.2max / 0\.3max"):
        FrozenThresholds.load(path, {"threshold": "0.3max"})
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    assert FrozenThresholds.load(path, {"threshold": "0.2max"}) is None and "thresholds is damaged" in caplog.text
    durable.write_framed(path, b"SAESTHRS", 1, {"ratio": "much"}, {})
    assert FrozenThresholds.load(path, {"threshold": "0.2max"}) is None and "got `str`" in caplog.text
    durable.write_framed(path, b"SAESTHRS", 2, {}, {})
    with pytest.raises(UnknownVersion, match="version 2; this saestream reads 1"):
        FrozenThresholds.load(path, {"threshold": "0.2max"})


def test_what_defines_the_thresholds_is_in_the_fingerprint_and_an_absolute_run_knows_no_calibration() -> None:
    def of(**options: object) -> dict[str, str]:
        settings = load(dictionary=list(SIZES), **options)
        description = PushedActivations(SIZES).describe()
        return fingerprint(description, RunShape.of(description.dictionaries), settings)

    def differs(one: dict[str, str], other: dict[str, str]) -> set[str]:
        return {key for key in {*one, *other} if one.get(key) != other.get(key)}

    relative = of(threshold="0.2max")
    assert differs(relative, of(threshold="0.3max")) == {"threshold"}
    assert differs(relative, of(threshold="0.2")) == {"threshold", "calibration tokens"}
    assert differs(relative, of(threshold="0.2max", calibration_tokens=5)) == {"calibration tokens"}
    assert differs(of(), of(threshold=0, calibration_tokens=5)) == set()
    assert of()["threshold"] == "0"

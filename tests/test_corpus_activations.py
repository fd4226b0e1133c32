"""Pushed activations: what a frame must be, and that no bytes can do worse than be refused."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from corpus_rig import DICTIONARIES, LIMIT, check, frame, layer

from engine.corpus.activations import read_frames
from engine.corpus.body import half_of
from engine.errors import BadInput, SaestreamError, TooLarge

GOOD = layer([(1, 1.0), (5, 2.0)], [(0, 3.0)])
NO_ENTRY = layer([], [])


def take(body: bytes, step: int = 1 << 16, **options: Any) -> int:
    watch = check("application/x-msgpack", "activations", **options)
    for start in range(0, len(body), step):
        watch.feed(body[start : start + step])
    return watch.finish(Path())


def changed(**fields: Any) -> bytes:
    return msgpack.packb({"document": "d", "tokens": 2, "layers": [GOOD, GOOD], **fields})


def second_layer(**fields: Any) -> bytes:
    return changed(layers=[GOOD, {**GOOD, **fields}])


def i4(*values: int) -> bytes:
    return np.array(values, dtype="<i4").tobytes()


def f4(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


def test_frames_are_read_as_they_were_sent(tmp_path: Path) -> None:
    path = tmp_path / "body"
    path.write_bytes(frame("a", 2, [GOOD, NO_ENTRY]) + frame("é", 0, [layer(), layer()]))
    first, second = read_frames(path, DICTIONARIES)
    assert (first.document, first.tokens, first.half) == ("a", 2, half_of(b"a"))
    assert first.layers[0].offsets.tolist() == [0, 2, 3] and first.layers[0].features.tolist() == [1, 5, 0]
    assert first.layers[0].values.tolist() == [1.0, 2.0, 3.0] and first.layers[1].offsets.tolist() == [0, 0, 0]
    assert (second.document, second.tokens, second.layers[1].offsets.tolist()) == ("é", 0, [0])


@pytest.mark.parametrize("step", [1, 7, 1 << 16], ids=["bytes", "small chunks", "at once"])
def test_frames_of_one_name_in_a_row_are_one_document(step: int) -> None:
    assert take(frame("a", 3) + frame("a", 2) + frame("b", 1) + frame("a", 1), step) == 3


@pytest.mark.parametrize(
    "body",
    [
        second_layer(values=f4(float("nan"), float("inf"), 1.0)),
        second_layer(offsets=i4(0, 0, 3), features=i4(0, 3, 7)),
        second_layer(offsets=i4(0, 3, 3), features=i4(0, 3, 7)),
        changed(layers=[NO_ENTRY, NO_ENTRY]),
        changed(tokens=0, layers=[layer(), layer()]),
        changed(model="gpt2", document=""),
    ],
    ids=["nan and inf", "first token empty", "last token empty", "nothing active", "no token", "other keys and an empty name"],
)
def test_what_is_allowed_is_taken(body: bytes) -> None:
    assert take(body) == 1


WRONG = {
    "empty body": (b"", "the body has no frame"),
    "cut off": (changed()[:-1], "frame 1 .from byte 0. is cut off: the body ends after 161 bytes of it"),
    "second frame cut off": (changed() + changed()[:5], "frame 2 .from byte 162. is cut off: the body ends after 5 bytes"),
    "trailing garbage": (changed() + b"\x01", "frame 2 is a number; it must be a map"),
    "unused byte": (changed() + b"\xc1", "frame 2 .from byte 162. is not MessagePack"),
    "text": (b"hello", "frame 1 is a number; it must be a map"),
    "nesting bomb": (b"\x91" * 100_000, "frame 1 .from byte 0. is not MessagePack"),
    "list as key": (b"\x81\x90\x01", "frame 1 .from byte 0. is not MessagePack"),
    "name is not UTF-8": (changed().replace(b"\xa1d", b"\xa1\xff"), "frame 1 .from byte 0. is not MessagePack"),
    "extension": (b"\xc7\x05\x01abcde", "frame 1 is of an unknown type; it must be a map"),
    "keys missing": (msgpack.packb({"document": "a"}), "frame 1 has no tokens and no layers; it has document"),
    "no key": (msgpack.packb({}), "frame 1 has no document and no tokens and no layers; it has no key"),
    "document is nil": (changed(document=None), "frame 1: document is nil; it must be a string"),
    "document is binary": (changed(document=b"d"), "frame 1: document is binary; it must be a string"),
    "document is long": (changed(document="d" * 2000), "frame 1: document is a string; it must be a string of at most 1024"),
    "negative tokens": (changed(tokens=-1), "frame 1: tokens is -1; it must be an integer from 0 on"),
    "fractional tokens": (changed(tokens=2.0), "frame 1: tokens is 2.0"),
    "boolean tokens": (changed(tokens=True), "frame 1: tokens is True"),
    "too many tokens": (changed(tokens=3), "frame 1, layer 0: 3 offsets for 3 tokens; there must be 4"),
    "endless tokens": (changed(tokens=2**40), "frame 1: tokens is 1099511627776"),
    "one layer": (changed(layers=[GOOD]), "frame 1 has 1 layers; this run has 2"),
    "three layers": (changed(layers=[GOOD] * 3), "frame 1 has 3 layers; this run has 2"),
    "layers is a map": (changed(layers=GOOD), "frame 1 has layers as a map; this run has 2"),
    "layer is a list": (changed(layers=[GOOD, [1]]), "frame 1, layer 1 is a list; it must be a map"),
    "column missing": (changed(layers=[GOOD, {}]), "frame 1, layer 1: offsets is missing; it must be binary"),
    "column is a list": (second_layer(features=[1, 5, 0]), "frame 1, layer 1: features is a list; it must be binary"),
    "odd bytes": (
        second_layer(values=f4(1, 2, 3)[:-1]),
        "frame 1, layer 1: values is 11 bytes; it must be binary, 4 bytes an entry",
    ),
    "no offsets": (second_layer(offsets=b""), "frame 1, layer 1: 0 offsets for 2 tokens; there must be 3"),
    "offsets start late": (second_layer(offsets=i4(1, 2, 3)), "offsets go from 1 to 3; they must go from 0 to 3"),
    "offsets end early": (second_layer(offsets=i4(0, 2, 2)), "offsets go from 0 to 2; they must go from 0 to 3"),
    "offsets end late": (second_layer(offsets=i4(0, 2, 9)), "offsets go from 0 to 9; they must go from 0 to 3"),
    "offsets fall": (second_layer(offsets=i4(0, 5, 3)), "frame 1, layer 1: offsets fall from 5 to 3 at token 1"),
    "offsets below zero": (second_layer(offsets=i4(0, -1, 3)), "frame 1, layer 1: offsets fall from 0 to -1 at token 0"),
    "fewer values": (second_layer(values=f4(1, 2)), "frame 1, layer 1: 3 features and 2 values; they must be as many"),
    "unsorted features": (second_layer(features=i4(5, 1, 0)), "feature 1 follows 5 within token 0; they must strictly increase"),
    "repeated feature": (second_layer(features=i4(5, 5, 0)), "feature 5 follows 5 within token 0"),
    "negative feature": (second_layer(features=i4(-1, 5, 0)), "feature -1 at entry 0; this layer has the features 0 to 7"),
    "feature too large": (second_layer(features=i4(1, 8, 0)), "feature 8 at entry 1; this layer has the features 0 to 7"),
    "zero": (second_layer(values=f4(1, 0, 3)), "frame 1, layer 1: value 0.0 at entry 1; only activations above 0 are sent"),
    "negative value": (second_layer(values=f4(1, 2, -0.5)), "value -0.5 at entry 2"),
    "negative infinity": (second_layer(values=f4(float("-inf"), 2, 3)), "value -inf at entry 0"),
}


@pytest.mark.parametrize("body, message", WRONG.values(), ids=WRONG)
def test_a_wrong_frame_is_refused_with_its_number_and_what_is_wrong(body: bytes, message: str) -> None:
    for step in (1, 1 << 16) if len(body) < 1000 else (1 << 16,):
        with pytest.raises(BadInput, match=message):
            take(body, step)


def test_a_good_frame_before_a_wrong_one_does_not_save_the_body() -> None:
    with pytest.raises(BadInput, match="frame 3, layer 1: feature 8"):
        take(changed() + changed() + second_layer(features=i4(1, 8, 0)))


TOO_LARGE = {
    "frame over the limit": (changed(more=b"x" * (LIMIT + 1)), "frame 1 .from byte 0. (has|declares a length)"),
    "many small parts": (
        changed(**{f"key {i}": b"x" * 9000 for i in range(200)}),
        "frame 1 .from byte 0. has 1,0.* at most 1,048,576",
    ),
    "list of 4 Gi": (b"\xdd\xff\xff\xff\xff" + b"\x90" * (LIMIT + 5000), "frame 1 .* at most 1,048,576"),
    "map of 4 Gi": (b"\xdf\xff\xff\xff\xff" + b"\xa0" * (LIMIT + 5000), "frame 1 .* at most 1,048,576"),
    "name of 4 Gi": (b"\xdb\xff\xff\xff\xff" + b"a" * (LIMIT + 5000), "frame 1 .* at most 1,048,576"),
    "binary of 4 Gi": (b"\xc6\xff\xff\xff\xff" + b"a" * (LIMIT + 5000), "frame 1 .* at most 1,048,576"),
    "map of 2,000 keys": (msgpack.packb({f"key {i}": i for i in range(2000)}), "frame 1 has a map of 2,000 keys"),
    "layer of 2,000 keys": (second_layer(**{f"key {i}": i for i in range(2000)}), "frame 1, layer 1 has a map of 2,003 keys"),
}


@pytest.mark.parametrize("body, message", TOO_LARGE.values(), ids=TOO_LARGE)
def test_an_oversized_frame_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(TooLarge, match=message):
        take(body, 4096)


BOMBS = {
    "beside what is read": changed(more=[[[]] * 1000] * 900),
    "in place of the layers": changed(layers=[[[]] * 1000] * 900),
    "in place of a layer": changed(layers=[GOOD, [[[]] * 1000] * 900]),
    "in place of a name": changed(document=[{}] * 900_000),
    "in place of a column": second_layer(values=[{}] * 900_000),
}


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_lists_and_maps_of_nothing_take_no_memory(body: bytes) -> None:
    """A byte each in the body, 64 in Python."""
    tracemalloc.start()
    with suppress(SaestreamError):
        take(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(body) > 900_000 and peak < 6 * LIMIT


def test_frames_larger_than_a_chunk_and_many_frames_in_a_chunk_are_both_fine() -> None:
    large = frame("large", 20_000)
    assert len(large) > 300_000
    assert take(large + frame("small", 1) * 1000 + large, 1 << 12) == 3
    assert take(large + frame("small", 1) * 1000 + large, 1 << 30) == 3


def test_random_damage_is_refused_or_harmless() -> None:
    random = np.random.default_rng(3)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(changed() + changed())
        damaged[random.integers(len(damaged))] = random.integers(256)
        try:
            take(bytes(damaged))
        except SaestreamError:
            refused += 1
    assert refused > 1000


def test_a_run_that_declares_no_dictionaries_takes_no_activations() -> None:
    with pytest.raises(BadInput, match="declared no dictionaries"):
        check("application/x-msgpack", "activations", dictionaries=None)

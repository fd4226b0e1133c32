"""Long texts are tokenised in pieces, and user text is text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpus_rig import train_tokenizer
from tokenizers import Regex, Tokenizer, pre_tokenizers

from engine.corpus.tokenizer import PIECE, DocumentTokenizer
from engine.errors import DoesNotFit

NEWER = (  # of GPT-4 and Llama 3: a full stop takes the line feeds after it along
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS = {
    "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "llama-3": pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(NEWER), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    ),
    "prefix blank": pre_tokenizers.ByteLevel(add_prefix_space=True),
    "metaspace": pre_tokenizers.Metaspace(),
}


def prose() -> str:
    """Text of this repository: prose, code, numbers, indentation and other scripts, in one row."""
    root = Path(__file__).parents[1]
    paths = sorted(path for folder in ("engine/corpus", "tests") for path in (root / folder).glob("*.py"))
    text = "\n\n".join(path.read_text() for path in paths).replace("<|endoftext|>", "the end")
    return text + " naïve café  東京 は 大きい。\r\n\t🙂 e\u0301 \n \n" * 20


@pytest.fixture(scope="module")
def text() -> str:
    return prose()


@pytest.fixture(scope="module", params=PRE_TOKENIZERS.values(), ids=PRE_TOKENIZERS)
def raw(request: pytest.FixtureRequest, text: str) -> Tokenizer:
    return train_tokenizer(request.param, [text[start : start + 2000] for start in range(0, 100_000, 2000)])


def at_once(raw: Tokenizer, text: str) -> list[int]:
    return raw.encode(text, add_special_tokens=False).ids


def test_a_long_text_has_the_same_ids_in_pieces_as_at_once(raw: Tokenizer, text: str) -> None:
    long = (text * (1 + 5 * PIECE // len(text)))[: 5 * PIECE]
    pieces = list(DocumentTokenizer(raw).encode_pieces(long))
    assert len(pieces) >= 5
    assert np.array_equal(np.concatenate(pieces), at_once(raw, long))


@pytest.mark.parametrize("piece", [16, 37, 300], ids=["16 characters", "37 characters", "300 characters"])
def test_the_size_of_a_piece_changes_no_id(raw: Tokenizer, text: str, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.corpus.tokenizer.PIECE", piece)
    some = text[:20_000] + text[-800:]
    assert DocumentTokenizer(raw).encode(some).tolist() == at_once(raw, some)


def test_a_document_of_32_pieces_has_the_same_ids_in_pieces_as_at_once(text: str) -> None:
    raw = train_tokenizer(PRE_TOKENIZERS["gpt-2"], [text[:50_000]], 2000)
    long = (text * (1 + 32 * PIECE // len(text)))[: 32 * PIECE]
    expected = raw.encode_batch_fast([long], add_special_tokens=False)[0].ids  # fast: without offsets, a third of the memory
    assert np.array_equal(DocumentTokenizer(raw).encode(long), expected)


def test_text_without_a_blank_is_cut_all_the_same_and_always_alike(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.corpus.tokenizer.PIECE", 100)
    monkeypatch.setattr("engine.corpus.tokenizer.LONGEST", 1000)
    raw = train_tokenizer(PRE_TOKENIZERS["gpt-2"], [text[:50_000]])
    tokenizer = DocumentTokenizer(raw)
    blankless = "".join(text.split())[:4500]
    pieces = list(tokenizer.encode_pieces(blankless))
    assert len(pieces) == 5 and raw.decode(tokenizer.encode(blankless).tolist()).replace(" ", "") != ""
    assert [piece.tolist() for piece in pieces] == [piece.tolist() for piece in tokenizer.encode_pieces(blankless)]


def test_a_special_token_in_a_text_is_text_and_none_is_added(raw: Tokenizer) -> None:
    special = raw.token_to_id("<|endoftext|>")
    tokenizer = DocumentTokenizer(raw)
    ids = tokenizer.encode("before <|endoftext|> after<|endoftext|>").tolist()
    assert special not in ids and len(ids) > 8
    assert special in at_once(raw, "<|endoftext|>"), "the caller's own tokenizer is left as it was"
    assert tokenizer.encode("").tolist() == [] and tokenizer.encode_many(["", "a"])[0].tolist() == []


def test_many_texts_at_once_have_the_ids_of_each(raw: Tokenizer, text: str) -> None:
    texts = [text[start : start + 90] for start in range(0, 9000, 90)]
    tokenizer = DocumentTokenizer(raw)
    assert [ids.tolist() for ids in tokenizer.encode_many(texts)] == [at_once(raw, one) for one in texts]


def test_truncation_and_padding_of_the_models_tokenizer_do_not_reach_documents(raw: Tokenizer, text: str) -> None:
    capped = Tokenizer.from_str(raw.to_str())
    capped.enable_truncation(4)
    capped.enable_padding(length=8)
    assert DocumentTokenizer(capped).encode(text[:500]).tolist() == at_once(raw, text[:500])


def test_a_tokenizer_is_read_from_its_file_or_the_file_is_named(raw: Tokenizer, tmp_path: Path) -> None:
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = DocumentTokenizer.from_file(tmp_path / "tokenizer.json")
    assert tokenizer.encode("a text").tolist() == at_once(raw, "a text") and tokenizer.vocab_size == raw.get_vocab_size()
    (tmp_path / "broken.json").write_text("{")
    for name in ("broken.json", "missing.json"):
        with pytest.raises(DoesNotFit, match=f"{name} is not a tokenizer.json"):
            DocumentTokenizer.from_file(tmp_path / name)

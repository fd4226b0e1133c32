"""Choose the fixed sample that tests read: `python -m engine.demo.sample`, to be run again only when the sample must change.

Documents of both corpora that training held out, from sources under the PSF and 3-clause BSD licences only (see `NOTICE`):
the sample is the one piece of other people's text that the repository carries.
"""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

from engine.demo import text

log = logging.getLogger("engine.demo.sample")

LICENSED = frozenset({text.STDLIB, text.TOPICS, "numpy", "scipy", "pandas", "torch"})
DOCUMENTS_PER_CORPUS = 160
# Long enough to have context, short enough for 320 of them in 150 kB.
CHARACTERS = range(90, 901)


def choose() -> list[text.Document]:
    """The first held-out documents of each corpus that `LICENSED` and `CHARACTERS` allow, packages taking turns.

    Without turns, torch would be three quarters of `numeric-docs`.
    """
    chosen: list[text.Document] = []
    for corpus in text.CORPORA:
        by_package: dict[str, list[text.Document]] = {}
        for document in text.sourced_documents(corpus):
            if _fits(document):
                named = text.Document(document.package, f"{corpus}/{document.id}", document.text)
                by_package.setdefault(document.package, []).append(named)
        turns = (document for turn in itertools.zip_longest(*by_package.values()) for document in turn if document is not None)
        chosen += itertools.islice(turns, DOCUMENTS_PER_CORPUS)
    return chosen


def _fits(document: text.Document) -> bool:
    """Whether a document may be shipped: its licence, its length, held out, and no authorship notice of its own."""
    return (
        document.package in LICENSED
        and len(document.text) in CHARACTERS
        and text.held_out(document.text)
        and "copyright" not in document.text.lower()
    )


def main() -> None:
    """Write `sample.jsonl` beside this file, one `{"id", "text"}` a line."""
    logging.basicConfig(level=logging.INFO)
    lines = [json.dumps({"id": d.id, "text": d.text}, ensure_ascii=False) for d in choose()]
    path = Path(__file__).with_name("sample.jsonl")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    log.info("%d documents, %d bytes in %s", len(lines), path.stat().st_size, path.name)


if __name__ == "__main__":
    main()

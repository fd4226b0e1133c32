"""Real English text that any Python installation carries: documentation, read from source files that are never imported.

1. A corpus is an ordered list of packages. `importlib.util.find_spec` says where a package's files lie; one that is absent
   is skipped, so the corpus is what *this* installation carries.
2. Every source file, and every help topic of pydoc, is a source. Sources are sorted by name, then shuffled with a fixed
   seed: the same installation always gives the same order, and the beginning is as varied as the end.
3. A source is parsed with `ast` only when its turn comes, so the first documents arrive within two seconds. Docstrings of
   modules, classes and functions are documents, and so are the texts that numpy, scipy and torch attach to compiled functions
   (`add_newdoc`, `add_docstr`).
4. A document loses its doctest blocks, and is dropped when it is short, mostly symbols, or opens like an earlier one.
5. A buffer of documents is shuffled as it flows: without it, all docstrings of one file would come in a row.

No torch here: the API process may read this text too.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import json
import logging
import random
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

CORPORA: tuple[str, ...] = ("python-docs", "numeric-docs")

STDLIB = "stdlib"
TOPICS = "pydoc-topics"

# Permissive licences only (PSF, BSD, MIT, Apache-2.0): the demo model is trained on this text.
PACKAGES: dict[str, tuple[str, ...]] = {
    "python-docs": (
        TOPICS,
        STDLIB,
        *("_pytest", "anyio", "click", "fsspec", "httpx", "huggingface_hub", "jinja2", "litestar", "msgspec", "networkx"),
        *("nltk", "pip", "playwright", "plotly", "pydantic", "pygments", "redis", "requests", "rich", "setuptools", "typer"),
    ),
    "numeric-docs": (
        *("numpy", "scipy", "pandas", "torch", "statsmodels", "sympy", "sklearn", "numba", "pyarrow", "transformers"),
        *("datasets", "patsy", "einops", "mpmath", "accelerate"),
    ),
}

# 3.5 characters a token with the demo's own tokenizer: about 0.3 M tokens per corpus, which a laptop encodes in half a minute.
DEMO_CHARACTERS = 1_050_000

MIN_WORDS = 8
# Share of letters and spaces below which a docstring is a table, a formula or a listing rather than prose.
MIN_LETTERS = 0.72
# Documents that open with the same letters are variants of one text (torch repeats some openings hundreds of times).
OPENING_LETTERS = 120
# Long enough to mix packages, short enough that the first document comes at once (1-2 s).
SHUFFLE_BUFFER = 2_000
SEED = 20241010
# One document in 20 is never trained on (chosen by hash, so that it holds for any installation).
HELD_OUT_ONE_IN = 20

_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "testing", "_vendor", "vendor", "vendored", "site-packages", "dist-packages", "__pycache__", "idlelib",
     "lib2to3", "turtledemo", "pydoc_data", "extern", "externals", "_generated", "third_party", "node_modules"}
)  # fmt: skip
# `__main__` has no spec; setuptools puts an importing shim in place of distutils.
_NOT_LOOKED_UP = frozenset({"__main__", "distutils"})
_ATTACHED = frozenset({"add_newdoc", "add_docstr", "add_newdoc_for_scalar_type", "_add_newdoc_ufunc", "add_doc"})
_SPHINX_OPTION = re.compile(r"^\s*\.\. (plot|image|figure|include|note|currentmodule|module|sectionauthor)::.*$", re.M)
_EXAMPLES_HEADING = re.compile(r"\n+Examples?:?:?\n[-=~]*\s*$")
_WORD = re.compile(r"[A-Za-z]{2,}")
_LETTER_OR_SPACE = re.compile(r"[A-Za-z\s]")
_NOT_A_LETTER = re.compile(r"[^a-z]+")


class Document(NamedTuple):
    """One document: the package that it comes from, a stable name (`scipy/fft/_basic.py:fft`), and its text."""

    package: str
    id: str
    text: str


def documents(corpus: str) -> Iterator[str]:
    """Yield the texts of `corpus` (one of `CORPORA`), each docstring or help topic once, in an order fixed by `SEED`.

    Raises:
        ValueError: the corpus isn't one of `CORPORA`.
    """
    return (document.text for document in sourced_documents(corpus))


def demo_documents(corpus: str) -> Iterator[str]:
    """Yield the beginning of `documents(corpus)`, at most `DEMO_CHARACTERS` characters: about 0.3 M tokens."""
    total = 0
    for text in documents(corpus):
        total += len(text)
        if total > DEMO_CHARACTERS:
            return
        yield text


def sample_documents() -> list[Document]:
    """Read the small fixed sample that is shipped for tests (`sample.jsonl`): held-out documents of both corpora.

    The text is the same on every machine, unlike `documents`, which reads what is installed. `Document.package` holds the
    corpus that a sample document comes from.
    """
    lines = Path(__file__).with_name("sample.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [Document(row["id"].split("/", 1)[0], row["id"], row["text"]) for row in rows]


def held_out(text: str) -> bool:
    """Whether a document is kept out of training: one in `HELD_OUT_ONE_IN`, by the hash of its text."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def sourced_documents(corpus: str) -> Iterator[Document]:
    """Yield what `documents` yields, with the package and the name of each document.

    Raises:
        ValueError: the corpus isn't one of `CORPORA`.
    """
    if corpus not in PACKAGES:
        raise ValueError(f"corpus {corpus!r} is not known; the demo has {', '.join(CORPORA)}")
    rng = random.Random(f"{SEED}:{corpus}")
    sources = [source for package in PACKAGES[corpus] for source in _sources(package)]
    rng.shuffle(sources)
    return _shuffled(_distinct(document for source in sources for document in source()), rng)


def _sources(package: str) -> list[Callable[[], Iterable[Document]]]:
    """The sources of one package, in a stable order; each gives its documents when called."""
    if package == TOPICS:
        return [lambda topic=topic: [topic] for topic in _topics()]
    if package == STDLIB:
        roots = [origin for name in sorted(sys.stdlib_module_names) if (origin := _origin(name)) is not None]
    else:
        roots = [origin] if (origin := _origin(package)) is not None else []
    if not roots:
        log.debug("package %s is not installed: left out of the demo text", package)
    files = [(path, path.relative_to(root.parent).as_posix()) for root in roots for path in _python_files(root)]
    return [lambda path=path, name=name: _parse(package, path, name) for path, name in sorted(files, key=lambda f: f[1])]


def _origin(module: str) -> Path | None:
    """A top-level module's folder (a package) or file (a plain module); None when absent or compiled. Never imports it."""
    spec = importlib.util.find_spec(module) if module not in _NOT_LOOKED_UP else None
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin) if spec.origin is not None and spec.origin.endswith(".py") else None


def _python_files(root: Path) -> Iterator[Path]:
    """Every Python file of a module or package that isn't a test, vendored or generated."""
    if root.is_file():
        yield root
        return
    if root.name in _SKIPPED_FOLDERS:
        return
    for path in root.rglob("*.py"):
        if _SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1]) and not path.name.startswith("test_"):
            yield path


def _topics() -> list[Document]:
    """pydoc's help topics: the language reference, shipped with Python as one dictionary literal."""
    root = _origin("pydoc_data")
    path = None if root is None else root / "topics.py"
    if path is None or not path.is_file():
        return []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assigned = next(node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict))
    topics: dict[str, str] = ast.literal_eval(assigned)
    return [Document(TOPICS, f"{TOPICS}/{name}", _clean(text)) for name, text in sorted(topics.items())]


def _parse(package: str, path: Path, name: str) -> Iterator[Document]:
    """The documents of one source file; a file that isn't valid Python of this version, or not UTF-8, has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        log.debug("%s has no documents: %s", name, error)
        return
    for qualified, text in _texts(tree, ""):
        yield Document(package, f"{name}:{qualified}" if qualified else name, _clean(text))


def _texts(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """(qualified name, raw text) of every docstring and attached text below `node`, in the order of the file."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield prefix, text
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _texts(child, f"{prefix}.{child.name}" if prefix else child.name)
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            yield from _attached(child.value)
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _texts(child, prefix)


def _attached(call: ast.Call) -> Iterator[tuple[str, str]]:
    """The text of `add_newdoc("numpy", "arange", \"\"\"…\"\"\")` and its like: the longest string among the arguments."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if called not in _ATTACHED:
        return
    strings = [n.value for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    if strings:
        text = max(strings, key=len)
        yield ".".join(s for s in strings if s is not text and len(s) < 40) or f"line {call.lineno}", text


def _clean(text: str) -> str:
    """The prose of a docstring: unindented, without doctest blocks, sphinx plumbing and runs of blank lines."""
    kept: list[str] = []
    doctest = False
    for line in _SPHINX_OPTION.sub("", inspect.cleandoc(text)).splitlines():
        stripped = line.strip()
        if stripped.startswith(">>>"):
            doctest = True
        elif not stripped:
            doctest = False
        if not doctest:
            kept.append(line.rstrip())
    joined = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
    return _EXAMPLES_HEADING.sub("", joined)


def _distinct(stream: Iterable[Document]) -> Iterator[Document]:
    """Drop what is short, what is mostly symbols, and what opens like a document that came before."""
    seen: set[bytes] = set()
    for document in stream:
        text = document.text
        if len(_WORD.findall(text)) < MIN_WORDS or len(_LETTER_OR_SPACE.findall(text)) < MIN_LETTERS * len(text):
            continue
        opening = _NOT_A_LETTER.sub("", text[: 4 * OPENING_LETTERS].lower())[:OPENING_LETTERS]
        key = hashlib.blake2b(opening.encode(), digest_size=8).digest()
        if key not in seen:
            seen.add(key)
            yield document


def _shuffled(stream: Iterable[Document], rng: random.Random) -> Iterator[Document]:
    """Shuffle a stream through a buffer of `SHUFFLE_BUFFER` documents."""
    buffer: list[Document] = []
    for document in stream:
        buffer.append(document)
        if len(buffer) > SHUFFLE_BUFFER:
            place = rng.randrange(len(buffer))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            yield buffer.pop()
    rng.shuffle(buffer)
    yield from buffer

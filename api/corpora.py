"""`/v1/corpora` and `/v1/uploads`: text in, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.params import Parameter

from api.answers import CorpusDetail, CorpusList, UploadAnswer
from api.body import body_of, check_of
from api.negotiation import answer
from api.parameters import Key, Name, Wait, within
from api.run import Run
from api.uploads import REPEATED, SMALLER, accept, corpus_answer, upload_answer
from engine.corpus.inbox import Inbox, Manifest
from engine.errors import Unknown
from engine.settings import Settings
from engine.views.reader import Views

PAGE = 100
MOST = 1_000

Limit = Annotated[int, Parameter(description="items of a page, at most")]
Cursor = Annotated[str | None, Parameter(description="`next` of the page before")]


@post("/v1/corpora", status_code=202, summary="Send text", tags=["corpora"], responses=REPEATED)
async def send_text(
    request: Request[Any, Any, Any],
    state: State,
    run: Run,
    settings: Settings,
    name: Name,
    wait: Wait = "durable",
    key: Key = None,
) -> Response[UploadAnswer]:
    """One upload of a corpus, taken whole or refused whole.

    The body is `text/plain` (one document), `application/x-ndjson` (a document a line: `{"text": …}` or `{"tokens": [ids]}`,
    optional `"id"`) or `application/vnd.apache.parquet` (a column `text` or `tokens`). Answered when the upload is durable, or with
    `wait=visible` when all of it is in a published snapshot, but after 60 seconds in any case. The same `Idempotency-Key` with the
    same content is answered 200 with the first upload; with other content 409.
    """
    async with body_of(request, settings.max_upload_bytes, SMALLER) as body:
        check = check_of(request, "corpora", run.description(), settings)
        return await accept(request, state, body, "corpora", name, check, key, wait)


@get("/v1/corpora", summary="All corpora", tags=["corpora"])
async def list_corpora(
    request: Request[Any, Any, Any], views: Views, inbox: Inbox, limit: Limit = PAGE, cursor: Cursor = None
) -> Response[CorpusList]:
    """Every corpus with the sum of its uploads, by name."""
    within("limit", limit, 1, MOST)
    by_name = sorted(inbox.manifests(), key=lambda manifest: manifest.corpus)
    groups = [(name, list(uploads)) for name, uploads in groupby(by_name, key=lambda manifest: manifest.corpus)]
    groups = [group for group in groups if cursor is None or group[0] > cursor]
    page = groups[:limit]
    shown = await _with_records(views, [manifest for _, manifests in page for manifest in manifests])
    items = [corpus_answer(name, [shown[manifest.id] for manifest in manifests]) for name, manifests in page]
    return answer(request, CorpusList(items=items, next=page[-1][0] if len(groups) > limit else None))


@get("/v1/corpora/{corpus:str}", summary="One corpus", tags=["corpora"])
async def show_corpus(
    request: Request[Any, Any, Any], views: Views, inbox: Inbox, corpus: str, limit: Limit = PAGE, cursor: Cursor = None
) -> Response[CorpusDetail]:
    """The sum of a corpus, and its uploads, newest first."""
    within("limit", limit, 1, MOST)
    manifests = [manifest for manifest in inbox.manifests() if manifest.corpus == corpus]
    if not manifests:
        raise Unknown(f"there is no corpus {corpus!r}: nothing of that name was sent")
    shown = await _with_records(views, manifests)
    older = [manifest for manifest in reversed(manifests) if cursor is None or manifest.id < cursor]
    page = older[:limit]
    total = corpus_answer(corpus, list(shown.values()))
    sums = {field: getattr(total, field) for field in total.__struct_fields__}
    items = [shown[manifest.id] for manifest in page]
    return answer(request, CorpusDetail(**sums, items=items, next=page[-1].id if len(older) > limit else None))


@get("/v1/uploads/{upload:str}", summary="One upload", tags=["corpora"])
async def show_upload(request: Request[Any, Any, Any], views: Views, inbox: Inbox, upload: str) -> Response[UploadAnswer]:
    """What was taken, and how much of it is counted in the published snapshot."""
    manifest = inbox.get(upload)
    if manifest is None:
        raise Unknown(f"there is no upload {upload!r}")
    return answer(request, (await _with_records(views, [manifest]))[upload])


async def _with_records(views: Views, manifests: Sequence[Manifest]) -> dict[str, UploadAnswer]:
    records = await views.uploads([manifest.id for manifest in manifests])
    return {manifest.id: upload_answer(manifest, records.get(manifest.id)) for manifest in manifests}


ROUTES = [send_text, list_corpora, show_corpus, show_upload]

"""Taking an upload, and what is known of it: its manifest on disk (what was taken), its record in Redis (what was done with it)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Literal

from anyio import to_thread
from litestar import Request, Response
from litestar.datastructures import State
from litestar.openapi import ResponseSpec
from redis.exceptions import RedisError

from api.answers import CorpusAnswer, SetAsideAnswer, UploadAnswer
from api.body import Body
from api.negotiation import answer
from engine.corpus.body import BodyCheck
from engine.corpus.inbox import Manifest, Route
from engine.errors import BadValue
from engine.logs import about
from engine.views.reader import Views
from engine.views.records import UploadRecord

log = logging.getLogger(__name__)

WAITS = ("durable", "visible")
SMALLER = "send it in several uploads"
REPEATED = {
    200: ResponseSpec(
        UploadAnswer, description="the same key came with the same content before: that upload", generate_examples=False
    )
}
"""Of the interface document: what a repetition is answered with, instead of 202."""
_LOOK_SECONDS = 0.1  # snapshots are a second apart


async def accept(
    request: Request[Any, Any, Any],
    state: State,
    body: Body,
    route: Route,
    corpus: str,
    check: BodyCheck,
    key: str | None,
    wait: str,
) -> Response[UploadAnswer]:
    """Take a body into the inbox and answer for it: 202, or 200 when the same key came with the same content before.

    Raises:
        BadInput, BadValue, TooLarge, Conflict, Busy, TooMany, StorageFault: refused; nothing of it is left.
    """
    if wait not in WAITS:
        raise BadValue(f"wait = {wait!r}: it must be one of {', '.join(WAITS)}")
    with state.arriving.hold():
        receiving = await to_thread.run_sync(state.inbox.receive, corpus, check.media_type, route, key, check)
        manifest = await body.into(receiving)
    with about(upload=manifest.id):
        how = "sent again, known" if receiving.repeated else "taken"
        log.info("upload of corpus %s %s: %d documents, %d bytes", corpus, how, manifest.documents, manifest.bytes)
    if not receiving.repeated:
        state.metrics.taken(manifest.bytes)
    record = None
    if wait == "visible":
        record = await until_visible(state.views, manifest.id, state.visible_seconds, state.stopping)
    elif receiving.repeated:
        record = (await state.views.uploads([manifest.id])).get(manifest.id)
    status = 200 if receiving.repeated else 202
    return answer(request, upload_answer(manifest, record), status=status, headers={"Location": f"/v1/uploads/{manifest.id}"})


async def until_visible(views: Views, upload: str, seconds: float, stopping: asyncio.Event) -> UploadRecord | None:
    """The record of an upload as soon as all of it is in a published snapshot, as it is after `seconds` at the latest.

    A Redis that is away meanwhile is waited for: the upload is durable, and a 503 would say that it was not taken.
    """
    deadline = time.monotonic() + seconds
    record = None
    while True:
        try:
            record = (await views.uploads([upload])).get(upload)
        except RedisError as error:
            log.warning("waiting for upload %s: Redis: %s", upload, error)
        if (record and record.state in ("counted", "failed")) or time.monotonic() > deadline or stopping.is_set():
            return record
        await asyncio.sleep(_LOOK_SECONDS)


def upload_answer(manifest: Manifest, record: UploadRecord | None) -> UploadAnswer:
    """One upload; `queued` until the engine has written its first record of it."""
    record = record or UploadRecord(id=manifest.id, state="queued")
    return UploadAnswer(
        id=manifest.id,
        corpus=manifest.corpus,
        state=record.state,
        media_type=manifest.media_type,
        bytes=manifest.bytes,
        documents=manifest.documents,
        documents_counted=record.documents_counted,
        tokens_received=record.tokens_received,
        tokens_counted=record.tokens_counted,
        set_aside=SetAsideAnswer(
            documents=record.set_aside.documents, tokens=record.set_aside.tokens, reasons=list(record.set_aside.reasons)
        ),
        received_at=manifest.received_at,
        error=record.error,
    )


def corpus_answer(name: str, uploads: Sequence[UploadAnswer]) -> CorpusAnswer:
    """The sum of a corpus' uploads. `tokens_received` stays null until all of them are tokenised."""
    received = [upload.tokens_received for upload in uploads]
    reasons = sorted({reason for upload in uploads for reason in upload.set_aside.reasons})
    return CorpusAnswer(
        name=name,
        state=_state([upload.state for upload in uploads]),
        uploads=len(uploads),
        bytes=sum(upload.bytes for upload in uploads),
        documents=sum(upload.documents for upload in uploads),
        documents_counted=sum(upload.documents_counted for upload in uploads),
        tokens_received=None if None in received else sum(tokens or 0 for tokens in received),
        tokens_counted=sum(upload.tokens_counted for upload in uploads),
        set_aside=SetAsideAnswer(
            documents=sum(upload.set_aside.documents for upload in uploads),
            tokens=sum(upload.set_aside.tokens for upload in uploads),
            reasons=reasons[:3],
        ),
    )


def _state(states: Sequence[str]) -> Literal["queued", "counting", "counted", "failed"]:
    """`counting` as long as anything is to be done, then `failed` if one upload did, else `counted`."""
    if "counting" in states or ("queued" in states and "counted" in states):
        return "counting"
    if "queued" in states or "receiving" in states:
        return "queued"
    return "failed" if "failed" in states else "counted"

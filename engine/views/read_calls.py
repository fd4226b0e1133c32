"""Calls of the script `READ`, one at a time: what is asked while one is on its way goes into the next one, together.

Under load a call costs the API process five times what it costs Redis, and one of eight questions little more than one of one.
A question is never answered by a call that began before it was asked: who has seen a snapshot is shown no older one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import redis.asyncio

from engine.errors import NotReady
from engine.views import scripts
from engine.views.keys import Keys
from engine.views.records import ORDER_DIGITS, Snapshot

_MOST_PIECES = 500
"""Records and slices of one call: some 1 ms, in which Redis answers nobody else. A question may ask for more, alone."""


class Found(NamedTuple):
    """A snapshot, what was found of its records, None where there is none, and of the records that were known.

    `known` are those that were asked for by their key alone: the record with its `Version.order` in front, or 1 where it has the
    order that was given.
    """

    snapshot: Snapshot
    known: dict[str, Any]
    pieces: list[bytes | None]


class _Question(NamedTuple):
    known: Mapping[str, str]
    pieces: Sequence[tuple[str, str]]
    answer: asyncio.Future[Found]


class ReadCalls:
    """The calls of one process."""

    def __init__(self, client: redis.asyncio.Redis, keys: Keys) -> None:
        self._client = client
        self._pointer = keys.snapshot
        self._script = client.register_script(scripts.READ)
        self._snapshot = msgspec.msgpack.Decoder(Snapshot)
        self._waiting: list[_Question] = []
        self._calling: asyncio.Task[None] | None = None

    async def read(self, known: Mapping[str, str], pieces: Sequence[tuple[str, str]]) -> Found:
        """All of it from one snapshot.

        Args:
            known: key of a record → its `Version.order` as it is known, "" where it is not.
            pieces: key of a record and what is wanted of it, see `scripts.READ`.

        Raises:
            NotReady: nothing is published yet. redis.RedisError: Redis is away.
        """
        question = _Question(known, pieces, asyncio.get_running_loop().create_future())
        self._waiting.append(question)
        if self._calling is None:
            self._calling = asyncio.create_task(self._call_all())
        return await question.answer

    async def _call_all(self) -> None:
        try:
            while self._waiting:
                questions = self._next()
                try:
                    await self._call(questions)
                except Exception as error:  # noqa: BLE001  (who asked raises it)
                    for question in questions:
                        if not question.answer.done():
                            question.answer.set_exception(error)
        finally:
            self._calling = None

    def _next(self) -> list[_Question]:
        taken, size = 0, 0
        for question in self._waiting:
            size += len(question.pieces)
            if taken and size > _MOST_PIECES:
                break
            taken += 1
        questions, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return questions

    async def _call(self, questions: Sequence[_Question]) -> None:
        # One may know a newer version of a record than another does: each pair of key and order is asked for once.
        known = list(dict.fromkeys(pair for question in questions for pair in question.known.items()))
        pieces = [piece for question in questions for piece in question.pieces]
        if known or pieces:
            keys = [self._pointer, *(key for key, _ in known), *(key for key, _ in pieces)]
            found = await self._script(keys=keys, args=[*(order for _, order in known), *(wanted for _, wanted in pieces)])
        else:  # half the time of a script
            found = [pointer] if (pointer := await self._client.get(self._pointer)) is not None else None
        if not found:
            raise NotReady("the engine has not published a snapshot yet")
        pointer, *records = cast("list[Any]", found)
        snapshot = self._snapshot.decode(pointer[ORDER_DIGITS:])
        of_known, at = dict(zip(known, records, strict=False)), len(known)
        for question in questions:
            mine = records[at : at + len(question.pieces)]
            at += len(question.pieces)
            if not question.answer.done():  # who asked may have gone
                question.answer.set_result(
                    Found(snapshot, {key: of_known[key, order] for key, order in question.known.items()}, mine)
                )

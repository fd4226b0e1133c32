"""The figures of an engine at work, in the record of its status."""

from __future__ import annotations

import msgspec


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How far the engine is with what has arrived (`engine.figures` says what each stage is).

    Attributes:
        tokens_received, tokens_durable: acknowledged, and sealed in the log; tokens_waiting: of the latter, those not counted.
        replay_left: tokens that are counted again after a restart, still to come; replay_per_second: how fast, 0 when none is left.
        set_aside_documents, set_aside_tokens: what was taken and can't be counted.
        uploads_waiting: not wholly in the log; segments_waiting: not wholly counted.
        questions_waiting: prompts and contexts that wait for the encoder.
    """

    tokens_received: int = 0
    tokens_durable: int = 0
    tokens_waiting: int = 0
    replay_left: int = 0
    replay_per_second: float = 0.0
    set_aside_documents: int = 0
    set_aside_tokens: int = 0
    uploads_waiting: int = 0
    segments_waiting: int = 0
    questions_waiting: int = 0

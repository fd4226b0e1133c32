"""Contexts of a gate: tokens at which all of its parents fire, some of them, or none while the child does.

1. The windows around the strongest activations of child and parents are encoded again, some with each call of the encoder.
2. In every window the tokens of each group are counted, and the strongest one of each group is cut out with its text: by the summed
   activations of the parents, or by the child's where none of them is active.
3. Of every group the strongest are kept, each from another document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from engine.errors import BadValue
from engine.measures.gates import AND_NOT, KINDS, PARENTS, holds
from engine.views.answers import Feature, live_snapshot, name, pair_names
from engine.views.contexts import Chosen, EncodeWindows, Window, activations_of, context_at
from engine.views.gate_answers import GateParentAnswer
from engine.views.requests import (
    GROUPS,
    ContextAnswer,
    GateContextAnswer,
    GateContextsAnswer,
    GateContextsRequest,
    GateGroupAnswer,
    Group,
    MissingAnswer,
)


class _Shown(NamedTuple):
    """The strongest token of a group in one window."""

    score: float
    context: GateContextAnswer


def check_gate(request: GateContextsRequest, pairs: Sequence[tuple[int, int]]) -> None:
    """Refuse what is no gate of this run.

    Raises:
        BadValue: an unknown kind, another number of parents, the same one twice, or layers that are no layer pair.
    """
    if request.kind not in KINDS:
        raise BadValue(f"kind = {request.kind!r}: it must be one of {', '.join(KINDS)}")
    wanted, given = PARENTS[KINDS.index(request.kind)], [name(parent) for parent in request.parents]
    if len(given) != wanted:
        raise BadValue(f"parents = {','.join(given)!r}: a gate of kind {request.kind} has {wanted} parents, not {len(given)}")
    if len(set(given)) != wanted:
        raise BadValue(f"parents = {','.join(given)!r}: they must be different features")
    for parent in request.parents:
        if (parent[0], request.child[0]) not in pairs:
            layers = f"layers {parent[0]}→{request.child[0]} are no layer pair of this run; it has {pair_names(pairs)}"
            raise BadValue(f"{name(parent)} can't be a parent of {name(request.child)}: {layers}")


def gate_context_steps(
    request: GateContextsRequest,
    chosen: Sequence[Chosen],
    above: Sequence[float],
    tokens: int,
    windows: EncodeWindows,
    decode: Callable[[int], str] | None,
) -> Iterator[GateContextsAnswer | None]:
    """None after each call of the encoder while there is more to encode, and the answer at last.

    Args:
        request: which gate, checked by `check_gate`.
        chosen: the strongest activations of its features.
        above: of the child, then of each parent: the threshold above which it is active.
        tokens: N of the state that they were chosen from.
        windows: encodes them.
        decode: token id → text; None in a run without a model.
    """
    found: dict[Group, list[_Shown]] = {group: [] for group in GROUPS}
    counts: dict[Group, np.ndarray] = {group: np.zeros(2, np.int64) for group in GROUPS}
    seen: set[int] = set()
    missing: list[MissingAnswer] = []
    waiting = {one.position for one in chosen}
    for some in windows(sorted(waiting)) if waiting else ():
        for one in chosen:
            window = some.get(one.position)
            if window is None:
                continue
            context = context_at(one, window, [], decode) if isinstance(window, str) else None
            if isinstance(context, MissingAnswer):
                missing.append(context)
            elif isinstance(window, Window) and window.rows.stop > window.rows.start:
                first = int(window.batch.positions[window.rows.start])
                if first not in seen:
                    seen.add(first)
                    _look(request, window, above, decode, found, counts)
        waiting -= some.keys()
        if waiting:
            yield None
    negated = KINDS.index(request.kind) == AND_NOT
    yield GateContextsAnswer(
        child=name(request.child),
        kind=request.kind,  # pyright: ignore[reportArgumentType]  (checked)
        parents=[GateParentAnswer(feature=name(one), negated=negated and at == 1) for at, one in enumerate(request.parents)],
        windows=len(seen),
        groups=[GateGroupAnswer(group=group, tokens=int(of[0]), child=int(of[1])) for group, of in counts.items()],
        contexts=[context for group in GROUPS for context in _strongest(found[group], request.k)],
        missing=missing,
        reason=None if decode is not None else "this run has no model: activations were pushed, and their text is not known",
        snapshot=live_snapshot(tokens),
    )


def _look(
    request: GateContextsRequest,
    window: Window,
    above: Sequence[float],
    decode: Callable[[int], str] | None,
    found: dict[Group, list[_Shown]],
    counts: dict[Group, np.ndarray],
) -> None:
    """Count the tokens of each group in a window, and keep the strongest of each."""
    features: list[Feature] = [request.child, *request.parents]
    values = np.stack([activations_of(window.batch, feature, window.rows) for feature in features])
    active = values > np.array(above, np.float32)[:, None]
    child, parents = active[0], active[1:]
    padded = [*parents, np.zeros_like(child)][:3]
    gate = holds(KINDS.index(request.kind), *padded)
    number = parents.sum(axis=0)
    strength = np.where(number > 0, (values[1:] * parents).sum(axis=0), values[0])
    groups = {"all": number == len(parents), "some": (number > 0) & (number < len(parents)), "none": (number == 0) & child}
    for group in GROUPS:
        here = groups[group]
        counts[group] += here.sum(), (here & child).sum()
        if not here.any():
            continue
        at = int(np.argmax(np.where(here, strength, -np.inf)))
        position = int(window.batch.positions[window.rows.start + at])
        context = context_at(Chosen(request.child, float(values[0, at]), position), window, features, decode)
        assert isinstance(context, ContextAnswer), "the token is one of the window"
        fields = {field: getattr(context, field) for field in ContextAnswer.__struct_fields__}
        shown = GateContextAnswer(
            **fields,
            group=group,
            active=[name(one) for one, there in zip(request.parents, parents[:, at].tolist(), strict=True) if there],
            child_active=bool(child[at]),
            holds=bool(gate[at]),
        )
        found[group].append(_Shown(float(strength[at]), shown))


def _strongest(shown: list[_Shown], k: int) -> list[GateContextAnswer]:
    """The k strongest, each from another document; of equal ones the earlier."""
    kept: dict[tuple[str, int], GateContextAnswer] = {}
    for one in sorted(shown, key=lambda one: (-one.score, one.context.log_position)):
        kept.setdefault((one.context.upload, one.context.document.number), one.context)
    return list(kept.values())[:k]

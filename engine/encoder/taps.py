"""Taps: hooks of our own at the hook points, and a forward pass that ends at the last of them.

The Bridge calls a hook with the canonical name of its point (`blocks.0.hook_in`), not with the one that was asked for, so every
hook is bound to its place in our list. Hooks stay attached between calls: `run_with_hooks` rebuilds the table of all 300 hook
points each time, a fifth of a small model's forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor


class Taps:
    """Residuals at some hook points of a model.

    Use it as a context manager, or call `close`, to take the hooks off the model.
    """

    def __init__(self, bridge: Any, points: Sequence[tuple[str, Any]], *, stop: bool) -> None:
        """
        Args:
            bridge: the `TransformerBridge`.
            points: (name, hook point), in the order in which the model computes them.
            stop: end the forward pass at the last point; the rest of the model and the unembedding (for GPT-2 a third of the
                work) are not computed.
        """
        from transformer_lens.model_bridge.exceptions import StopAtLayerException

        self._bridge = bridge
        self._stop: type[Exception] = StopAtLayerException  # the Bridge's own way to end a pass early; it catches it
        self._caught: list[Tensor | None] = [None] * len(points)
        self.fired: list[str] = []
        """Names in the order in which they were computed in the last pass, each time that they were."""
        self._handles = []
        for place, (name, point) in enumerate(points):
            last = stop and place == len(points) - 1
            point.add_hook(partial(self._catch, place=place, name=name, last=last), is_permanent=True)
            self._handles.append((point, point.fwd_hooks[-1]))

    def __call__(self, tokens: Tensor) -> list[Tensor | None]:
        """Run the model.

        Args:
            tokens: int64 `[rows, length]`, padded on the right: attention is causal, so padding needs no mask.

        Returns:
            One tensor `[rows, length, d]` per point, float32, on the model's device; None where the point was never computed.
        """
        self.fired.clear()
        self._caught[:] = [None] * len(self._caught)
        with torch.inference_mode():
            self._bridge.forward(tokens, return_type=None, prepend_bos=False, use_cache=False)
        caught = list(self._caught)
        self._caught[:] = [None] * len(caught)  # else the residuals of the last pass would live until the next
        return caught

    def _catch(self, value: Tensor, hook: Any, place: int, name: str, last: bool) -> None:
        self._caught[place] = value
        self.fired.append(name)
        if last:
            raise self._stop(value)

    def close(self) -> None:
        """Take the hooks off the model; the taps give nothing after that."""
        for point, handle in self._handles:
            handle.hook.remove()
            point.fwd_hooks.remove(handle)
        self._handles.clear()

    def __enter__(self) -> Taps:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

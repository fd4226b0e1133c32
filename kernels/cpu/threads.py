"""Splits the work of a CPU kernel over as many threads as torch is allowed to use.

The compiled kernels release the GIL, so plain Python threads do. numba's own `parallel=True` was not taken: its default layer
(workqueue) aborts the process when two of our threads (counting and live queries) enter it at the same time.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Result = TypeVar("Result")

_here = threading.local()  # `worker` is there on the threads of the pool


def _begin() -> None:
    _here.worker = True


_pool = ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1), thread_name_prefix="kernel", initializer=_begin)


def threads_for(work: int, least: int) -> int:
    """How many threads `work` units are worth when one thread should have `least` of them; at most `torch.get_num_threads()`."""
    return max(1, min(torch.get_num_threads(), work // least))


def run_each(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    """Runs many independent calls of about equal length, shared out over the threads; results in the order of the calls."""
    threads = threads_for(len(calls), 1)
    shares = run_split([partial(_run_all, calls[first::threads]) for first in range(threads)])
    return [shares[at % threads][at // threads] for at in range(len(calls))]


def _run_all(calls: Sequence[Callable[[], Result]]) -> list[Result]:
    return [call() for call in calls]


def run_split(parts: list[Callable[[], Result]]) -> list[Result]:
    """Runs the parts at the same time, the first on the calling thread; results in the order of the parts. A part that calls this
    again on a thread of the pool runs its own parts one after the other: waiting there for the pool could be for ever."""
    if hasattr(_here, "worker"):
        return [part() for part in parts]
    others = [_pool.submit(part) for part in parts[1:]]
    first = parts[0]()
    return [first, *(other.result() for other in others)]

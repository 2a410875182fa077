"""Pieces of work on one core each: what comes out of one does not depend on how many run at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

In = TypeVar("In")
Out = TypeVar("Out")


def each_on_one_core(work: Callable[[In], Out], pieces: Sequence[In], *, threads: int) -> list[Out]:
    """`work` of every piece, in their order; with one thread in this one, on as many cores as it has."""
    if threads == 1:
        return [work(piece) for piece in pieces]
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(work, pieces))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)

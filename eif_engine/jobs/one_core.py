"""Work whose numbers must not depend on the number of threads: each piece on one core, several pieces at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from eif_engine.jobs.tiles import run_tiles
from eif_engine.types import Progress, no_progress

In = TypeVar("In")
Out = TypeVar("Out")


@contextmanager
def cores(count: int) -> Iterator[int]:
    """Compute on so many cores inside; gives their number outside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def on_one_core_each(
    work: Callable[[In], Out], items: Sequence[In], *, threads: int, progress: Progress = no_progress
) -> list[Out]:
    """`work` of every item, in their order.

    Args:
        work: Called on several threads, each of which computes on one core.
        items: What it is called with.
        threads: How many at a time.
        progress: Called in this thread with items done.
    """
    found: dict[int, Out] = {}

    def run(place: slice) -> None:
        found[place.start] = work(items[place.start])

    places = [slice(place, place + 1) for place in range(len(items))]
    run_tiles(run, places, threads=threads, progress=lambda share: progress(round(share * len(items)), len(items)))
    return [found[place] for place in range(len(items))]

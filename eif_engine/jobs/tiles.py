"""Work on tiles of samples, on one core each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

import torch


def tiles_of(samples: int, rows: int) -> list[slice]:
    """Slices of so many rows that cover all samples; the last may be shorter."""
    return [slice(start, min(start + rows, samples)) for start in range(0, samples, rows)]


def run_tiles(
    work: Callable[[slice], None], tiles: Sequence[slice], *, threads: int, progress: Callable[[float], None]
) -> None:
    """Call `work` for every tile.

    Args:
        work: Called on several threads, each of which computes on one core: what comes out for a tile does not depend
            on how many there are.
        tiles: The tiles.
        threads: How many.
        progress: Called in this thread with the share that is done; what it raises ends the work.
    """
    if threads == 1:
        for done, tile in enumerate(tiles, start=1):
            work(tile)
            progress(done / len(tiles))
        return
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        running: list[Future[None]] = [pool.submit(work, tile) for tile in tiles]
        for done, future in enumerate(as_completed(running), start=1):
            future.result()
            progress(done / len(tiles))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)

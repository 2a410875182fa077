"""Time and peak memory of one piece of work, in a process of its own."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch


def fastest(work: Callable[[], object], rounds: int) -> float:
    """The least seconds of some rounds, after one that warms up."""
    work()
    return min(seconds(work) for _ in range(rounds))


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call, waiting for a GPU where there is one."""
    _synchronize()
    start = time.perf_counter()
    work()
    _synchronize()
    return time.perf_counter() - start


def peak_bytes() -> int:
    """The most memory this process has had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """What this process has resident now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

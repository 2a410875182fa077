"""Memory: what is there, and refusing what cannot fit before it is tried."""

from __future__ import annotations

import resource
from pathlib import Path

from eif_engine.errors import MemoryExceeded

_MEMINFO = Path("/proc/meminfo")
_STATUS = Path("/proc/self/statm")
_CGROUP = Path("/sys/fs/cgroup")
_UNKNOWN = 2**63
_RECLAIMABLE = ("inactive_file", "active_file", "slab_reclaimable")


def available_bytes() -> int:
    """The least of what the machine has free, what the control group leaves, and what `ulimit -v` leaves."""
    return max(0, min(_machine(), _control_group(), _address_space()))


def require(needed: int, *, budget: int | None, what: str) -> None:
    """Refuse work that cannot fit.

    Args:
        needed: Bytes the work is estimated to take at its peak.
        budget: Bytes it may take; None means `available_bytes()`.
        what: The work, in words that tell the caller what to make smaller.

    Raises:
        MemoryExceeded: Naming both.
    """
    available = available_bytes() if budget is None else min(budget, available_bytes())
    if needed > available:
        raise MemoryExceeded(
            f"{what} needs about {needed:,} bytes of memory, but {available:,} are available: use fewer samples, or a "
            "machine with more memory",
            needed_bytes=needed,
            budget_bytes=available,
        )


def _machine() -> int:
    try:
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _UNKNOWN


def _control_group() -> int:
    """Version 2 only, as a container sees its own. File pages are given back under pressure, so they do not count."""
    try:
        limit = int((_CGROUP / "memory.max").read_text())  # `max` is no number: there is no limit
        used = int((_CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return _UNKNOWN
    return limit - used + sum(int(stat.get(name, 0)) for name in _RECLAIMABLE)


def _address_space() -> int:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return _UNKNOWN
    try:
        return limit - int(_STATUS.read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return _UNKNOWN

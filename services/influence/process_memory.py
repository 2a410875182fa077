"""What the processes of a job have in memory, as the kernel of Linux counts it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_COUNTED = ("RssAnon:", "RssShmem:", "VmSwap:")
"""Pages of files are left out: the kernel takes them back when it is short, and features lie in mapped files."""


def can_be_measured() -> bool:
    """Whether this system tells what a process has in memory."""
    with suppress(OSError):
        return "RssAnon:" in (_PROC / "self" / "status").read_text()
    return False


def session_bytes(session: int) -> int:
    """Bytes that the processes of a session hold in memory or in swap. Those that end meanwhile do not count."""
    return sum(_bytes_of(pid) for pid in _members(session))


def _members(session: int) -> list[int]:
    numbers = [int(path.name) for path in _PROC.iterdir() if path.name.isdigit()]
    return [pid for pid in numbers if _session_of(pid) == session]


def _session_of(pid: int) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        # The name of the program stands in brackets and may hold anything, brackets too.
        return int((_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[3])
    return None


def _bytes_of(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(_COUNTED))

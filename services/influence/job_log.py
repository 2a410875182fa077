"""What a job process prints on standard error: kept in its folder, within bounds, its end at hand."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

LOG_NAME = "log.txt"
OLD_LOG_NAME = "log.old.txt"
MAX_LOG_BYTES = 4 << 20
"""Of each of the two files."""

_TAIL_BYTES = 4096
_CREDENTIALS = re.compile(r"//[^/\s@]*@")


class JobLog:
    """Appends to `log.txt`; a full one becomes `log.old.txt`. A disk that is full loses lines, never the job."""

    def __init__(self, folder: Path, *, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._path = folder / LOG_NAME
        self._old_path = folder / OLD_LOG_NAME
        self._max_bytes = max_bytes
        self._tail = b""

    def write(self, data: bytes) -> None:
        """Append what the process has printed."""
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        self._append(data)

    def note(self, message: str) -> None:
        """Append what its server says of it, in the form of its own lines; `last_lines` has the message alone."""
        self._tail = (self._tail + f"{message}\n".encode())[-_TAIL_BYTES:]
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {
            "time": time,
            "level": "INFO",
            "logger": __name__,
            "message": message,
            "job_uid": self._path.parent.name,
        }
        self._append(f"{json.dumps(line)}\n".encode())

    def _append(self, data: bytes) -> None:
        try:
            if self._path.exists() and self._path.stat().st_size + len(data) > self._max_bytes:
                self._path.replace(self._old_path)
            with self._path.open("ab") as file:
                file.write(data)
        except OSError:
            return

    def last_lines(self, count: int, *, secrets: Collection[str]) -> str:
        """The end of it, without what must not be told: values in `secrets`, and user and password in URIs."""
        text = self._tail.decode(errors="replace")
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        lines = [line.rstrip() for line in _CREDENTIALS.sub("//***@", text).splitlines() if line.strip()]
        return "\n".join(lines[-count:])

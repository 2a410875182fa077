"""Tells whoever started this process that it accepts calls, and where."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path


def announce(address: str, ready_file: Path | None = None, *, ops_address: str | None = None) -> None:
    """Print one JSON line `{"event": "listening", "address": ...}` on standard output, and write it to `ready_file`.

    Where there is a port for probes and metrics, it has `ops_address` too. The file appears complete or not at all.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    facts = {"time": now, "level": "INFO", "event": "listening", "address": address, "pid": os.getpid()}
    line = json.dumps(facts | ({"ops_address": ops_address} if ops_address else {}))
    if ready_file is not None:
        partial = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
        partial.write_text(f"{line}\n")
        partial.replace(ready_file)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()

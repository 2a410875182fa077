"""JSON that another program has exported, read within a limit."""

from __future__ import annotations

import json
from pathlib import Path

from services.client.roundtrip.errors import RoundTripError

MAX_BYTES = 1 << 30
MAX_LABEL = 1024
"""Characters of a label, as in a manifest."""


def read_export(path: Path) -> object:
    """The value of a file. Raises RoundTripError: it is too large, or no JSON."""
    if path.stat().st_size > MAX_BYTES:
        raise RoundTripError(f"{path} has more than {MAX_BYTES:,} bytes: export in parts")
    try:
        value: object = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RoundTripError(f"{path} is not valid JSON: {error}") from error
    return value


def is_label(text: str) -> bool:
    """Whether a manifest can have it as a label."""
    return text.isprintable() and bool(text.strip()) and len(text) <= MAX_LABEL

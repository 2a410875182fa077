"""What people type where the server wants the URI of an object."""

from __future__ import annotations

import re
from pathlib import Path

from services.client.cli.failures import InputError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_uri(given: str) -> bool:
    """Whether it has a scheme; anything else is a path of this machine."""
    return _SCHEME.match(given) is not None


def to_uri(given: str) -> str:
    """A URI as it is; a path of this machine as an absolute file:// URI. Raises InputError when nothing is there."""
    if is_uri(given):
        return given
    path = Path(given).expanduser()
    if not path.exists():
        raise InputError(f"{given}: no such file or folder here; give a path, s3://bucket/key or file:///path")
    return file_uri(path)


def file_uri(path: Path) -> str:
    """The URI of a path. It is literal: the servers take `%20` as three characters, and links as what they point to."""
    return f"file://{path.resolve().as_posix()}"

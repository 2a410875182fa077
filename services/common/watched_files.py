"""Files of a server's settings, read again when they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from services.common.errors import ServiceError
from services.common.followed_files import FilesUnusable, FollowedFiles

T = TypeVar("T")


class WatchedFiles(FollowedFiles[T]):
    """FollowedFiles whose fault at the start is one of the settings.

    Raises:
        ServiceError: ARGUMENT_INVALID, when the files cannot be used as they are at the start.
    """

    def __init__(self, paths: Sequence[Path], parse: Callable[[Sequence[bytes]], T], *, what: str) -> None:
        try:
            super().__init__(paths, parse, what=what)
        except FilesUnusable as error:
            raise ServiceError("ARGUMENT_INVALID", str(error)) from error

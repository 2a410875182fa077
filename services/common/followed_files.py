"""Files that are read again when they change, while the process runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

MAX_BYTES = 1 << 20
"""Of one file."""

_TRIES = 10
_TICK_NS = 100_000_000
"""Longer than the clock of any file system stands still: a file that is older has not changed since with its stamp."""

T = TypeVar("T")
_Stamps = tuple[tuple[int, ...] | None, ...]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Loaded(Generic[T]):
    """Contents of the files and what they say; settled when a later change cannot have the same stamps."""

    value: T
    contents: list[bytes]
    stamps: _Stamps
    settled: bool


class FilesUnusable(ValueError):
    """Files cannot be used as they are; the message names them and says why."""


class FollowedFiles(Generic[T]):
    """What some files say together, read anew when one of them has changed.

    A change counts once every file could be read, the whole makes sense, and nothing changed meanwhile. Until then what
    was read before stands, and the log says why, once for each change. Links are followed, so a link that is moved to
    another file is a change too. Thread-safe.

    Args:
        paths: The files.
        parse: From their contents, in the order of `paths`, to the value; raises ValueError or OSError.
        what: They are, for the log and for messages: `the certificate of this server`.

    Raises:
        FilesUnusable: At the start.
    """

    def __init__(self, paths: Sequence[Path], parse: Callable[[Sequence[bytes]], T], *, what: str) -> None:
        self._paths = tuple(paths)
        self._parse = parse
        self._what = what
        self._lock = threading.Lock()
        for _ in range(_TRIES):
            loaded = self._load(known=None)
            if loaded is not None:
                break
        else:
            raise FilesUnusable(f"{what} ({self._names}) changes all the time")
        self._loaded: _Loaded[T] = loaded
        self._refused: _Stamps | None = None
        self._refused_for_good = False

    def current(self) -> T:
        """What the files say; the same object for as long as they do not change."""
        if not self._is_known(self._stamps()):
            with self._lock:
                self._reload()
        return self._loaded.value

    @property
    def _names(self) -> str:
        return ", ".join(map(str, self._paths))

    def _is_known(self, stamps: _Stamps) -> bool:
        if stamps == self._refused:
            return self._refused_for_good
        return stamps == self._loaded.stamps and self._loaded.settled

    def _reload(self) -> None:
        before, now = self._stamps(), time.time_ns()
        if self._is_known(before):  # another thread was faster
            return
        try:
            loaded = self._load(known=self._loaded)
        except FilesUnusable as error:
            told, self._refused, self._refused_for_good = self._refused == before, before, _is_old(before, now)
            if told:
                return
            logger.error("%s stays as it was: %s", self._what, error, extra=_event("reload_failed"))  # noqa: TRY400  the message says it all
            return
        if loaded is None:  # it is being written: the next caller looks again
            return
        if loaded.value is not self._loaded.value:
            logger.info("%s was read again (%s)", self._what, self._names, extra=_event("reloaded"))
        self._loaded, self._refused = loaded, None

    def _load(self, *, known: _Loaded[T] | None) -> _Loaded[T] | None:
        """What the files hold, with the value of `known` where that has not changed; None when they change just now."""
        before, now = self._stamps(), time.time_ns()
        try:
            contents = [_read(path) for path in self._paths]
            value = known.value if known and known.contents == contents else self._parse(contents)
        except (ValueError, OSError) as error:
            if self._stamps() != before:
                return None
            raise FilesUnusable(f"{self._what} ({self._names}) cannot be used: {error}") from error
        if self._stamps() != before:
            return None
        return _Loaded(value=value, contents=contents, stamps=before, settled=_is_old(before, now))

    def _stamps(self) -> _Stamps:
        return tuple(map(_stamp_of, self._paths))


def _is_old(stamps: _Stamps, now: int) -> bool:
    """Whether the last change was so long ago that another one must have another stamp."""
    return all(stamp is None or now - stamp[-1] > _TICK_NS for stamp in stamps)


def _stamp_of(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written to or replaced, or a link moved; None where there is none."""
    try:
        info = path.stat()
    except OSError:
        return None
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes")
    return data


def _event(name: str) -> dict[str, dict[str, str]]:
    return {"fields": {"event": name}}

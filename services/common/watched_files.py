"""Files that are read again when they change, while the process runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from eif_engine.errors import EifError
from services.common.errors import ServiceError

MAX_BYTES = 1 << 20
"""Of one file."""

_TRIES = 10

T = TypeVar("T")
_Stamp = tuple[tuple[int, ...] | None, ...]

logger = logging.getLogger(__name__)


class WatchedFiles(Generic[T]):
    """What some files say together, read anew when one of them has changed.

    A change counts once every file could be read, the whole makes sense, and nothing changed meanwhile. Until then what
    was read before stands, and the log says why, once for each change. Links are followed, so a link that is moved to
    another file is a change too. Thread-safe.

    Args:
        paths: The files.
        parse: From their contents, in the order of `paths`, to the value; raises EifError, ValueError or OSError.
        what: They are, for the log and for messages: `the certificate of this server`.

    Raises:
        ServiceError: ARGUMENT_INVALID, when the files cannot be used as they are at the start.
    """

    def __init__(self, paths: Sequence[Path], parse: Callable[[Sequence[bytes]], T], *, what: str) -> None:
        self._paths = tuple(paths)
        self._parse = parse
        self._what = what
        self._lock = threading.Lock()
        self._stamp: _Stamp = ()
        for _ in range(_TRIES):
            loaded = self._load()
            if loaded is not None:
                break
        else:
            raise ServiceError("ARGUMENT_INVALID", f"{what} ({self._names}) changes all the time")
        self._value, self._stamp = loaded

    def current(self) -> T:
        """What the files say; the same object for as long as they do not change."""
        if self._stamps() != self._stamp:
            with self._lock:
                self._reload()
        return self._value

    @property
    def _names(self) -> str:
        return ", ".join(map(str, self._paths))

    def _reload(self) -> None:
        stamp = self._stamps()
        if stamp == self._stamp:  # another thread was faster
            return
        try:
            loaded = self._load()
        except ServiceError as error:
            self._stamp = stamp
            logger.error("%s stays as it was: %s", self._what, error.message, extra=_event("reload_failed"))  # noqa: TRY400  the message says it all
            return
        if loaded is not None:  # else it is being written: the next caller looks again
            self._value, self._stamp = loaded
            logger.info("%s was read again (%s)", self._what, self._names, extra=_event("reloaded"))

    def _load(self) -> tuple[T, _Stamp] | None:
        """Value and stamp of the files; None when they changed while they were read."""
        before = self._stamps()
        try:
            value = self._parse([_read(path) for path in self._paths])
        except (EifError, ValueError, OSError) as error:
            if self._stamps() != before:
                return None
            why = error.message if isinstance(error, EifError) else str(error)
            raise ServiceError("ARGUMENT_INVALID", f"{self._what} ({self._names}) cannot be used: {why}") from error
        return (value, before) if self._stamps() == before else None

    def _stamps(self) -> _Stamp:
        return tuple(map(_stamp_of, self._paths))


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

"""Objects as files under configured folders."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from services.common.errors import ServiceError
from services.common.storage.base import ObjectInfo
from services.common.storage.local_files import FileStream, file_errors, info_of
from services.common.storage.streams import CHUNK_BYTES, ObjectStream, StreamingReads, new_file, opened
from services.common.storage.uris import PARTIAL_PREFIX, file_uri, parse_file, printable, refused


class LocalStore(StreamingReads):
    """`file:///path` under `roots`. Symbolic links are followed as long as they lead to a place under a root."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(root.resolve() for root in roots)

    def head(self, uri: str) -> ObjectInfo:
        with self.stream(uri, offset=0, length=0, etag=None) as stream:
            return stream.info

    def stream(self, uri: str, *, offset: int, length: int | None, etag: str | None) -> ObjectStream:
        path = self._inside(uri, parse_file(uri))
        with file_errors(uri):
            return FileStream(uri, path, offset=offset, length=length, etag=etag)

    def put(self, uri: str, data: bytes | Path, *, if_absent: bool = False) -> ObjectInfo:
        path = self._inside(uri, parse_file(uri))
        with opened(data) as source, file_errors(uri):
            _make_folder(uri, path.parent)
            with new_file(path.parent) as partial:
                _fill(partial, source)
                info = info_of(uri, partial.stat())
                _publish(uri, partial, path, if_absent=if_absent)
            return info

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        path = parse_file(prefix, prefix=True)
        folder, start = (path, "") if prefix.endswith("/") else (path.parent, path.name)
        resolved = self._inside(prefix, folder)
        base = file_uri(folder).rstrip("/")
        with file_errors(prefix):
            yield from self._walk(base, resolved, start, (resolved,))

    def delete(self, uri: str) -> None:
        path = parse_file(uri)
        path = self._inside(uri, path.parent) / path.name
        with file_errors(uri), suppress(FileNotFoundError, NotADirectoryError):
            if not stat.S_ISDIR(path.lstat().st_mode):
                path.unlink()

    def _inside(self, uri: str, path: Path) -> Path:
        resolved = _resolve(path)
        if resolved is None or not self._is_inside(resolved):
            roots = ", ".join(file_uri(root) for root in self._roots) or "none"
            raise refused(uri, f"file:// is open to what lies under EIF_STORAGE_FILE_ROOTS ({roots})")
        return resolved

    def _is_inside(self, resolved: Path) -> bool:
        return any(resolved.is_relative_to(root) for root in self._roots)

    def _walk(self, base: str, folder: Path, start: str, chain: tuple[Path, ...]) -> Iterator[ObjectInfo]:
        """Files below a folder, in order of their URIs. `chain`: the folders above it, where no link may lead back."""
        for name, path in _sorted_entries(folder, start):
            target = _resolve(path)
            if target is None or not self._is_inside(target) or target in chain:
                continue
            if name.endswith("/"):
                yield from self._walk(f"{base}/{name[:-1]}", target, "", (*chain, target))
            else:
                with suppress(FileNotFoundError):
                    yield info_of(f"{base}/{name}", target.stat())


def _resolve(path: Path) -> Path | None:
    """The path without links, or None for links that go in a circle."""
    try:
        return path.resolve()
    except (RuntimeError, OSError):
        return None


def _sorted_entries(folder: Path, start: str) -> list[tuple[str, Path]]:
    """Folders (with a slash at the end, as in a URI) and regular files, sorted as their URIs are."""
    entries = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as found:
        for entry in found:
            if entry.name.startswith(start) and not entry.name.startswith(PARTIAL_PREFIX):
                with suppress(OSError):  # a link that goes in a circle is neither
                    if entry.is_dir():
                        entries.append((f"{entry.name}/", Path(entry.path)))
                    elif entry.is_file():
                        entries.append((entry.name, Path(entry.path)))
    return sorted(entries)


def _make_folder(uri: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise refused(
            uri, "a part of its path is an object, and in a file system that cannot be a folder too"
        ) from None


def _fill(partial: Path, source: BinaryIO) -> None:
    with partial.open("wb") as file:
        shutil.copyfileobj(source, file, CHUNK_BYTES)
        file.flush()
        os.fsync(file.fileno())


def _publish(uri: str, partial: Path, path: Path, *, if_absent: bool) -> None:
    """Give a complete file its name, at once and durably."""
    if if_absent:
        try:
            os.link(partial, path)
        except FileExistsError:
            raise ServiceError("OBJECT_EXISTS", f"{printable(uri)} exists already", uri=printable(uri)) from None
    else:
        partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

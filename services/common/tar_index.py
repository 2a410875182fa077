"""Where each file of a tar lies in it. Nothing is unpacked, so links and paths in a tar can do no harm."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import ServiceError
from services.common.storage.uris import printable

_BLOCK = 512
_MAX_MEMBERS = 4_000_000
_MAX_NAME_HEADER = 64 << 10
_NAME_HEADERS = {b"x", b"g", b"L", b"K"}
"""Headers that carry long names: `tarfile` reads them whole, so their size is checked first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """The bytes of a file in a tar; `size` None for what is no plain file."""

    offset: int
    size: int | None


def index_tar(path: Path, uri: str) -> dict[str, Member]:
    """Members by name, without `./` in front. Of a name used twice the last one counts, as it does to `tar`.

    Raises:
        ServiceError: ARCHIVE_INVALID for what is no uncompressed, complete tar.
    """
    _check_headers(path, uri)
    members: dict[str, Member] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            while (info := tar.next()) is not None:
                plain = info.isreg() and not info.issparse()
                members[member_key(info.name)] = Member(offset=info.offset_data, size=info.size if plain else None)
                tar.members = []  # type: ignore[attr-defined]  # it would keep every header; the stubs leave it out
    except tarfile.TarError as error:
        raise _invalid(uri, str(error)) from error
    return members


def member_key(name: str) -> str:
    """`./a/b` and `a/b` are one member."""
    while name.startswith("./"):
        name = name[2:]
    return name


def _check_headers(path: Path, uri: str) -> None:
    """Walk the raw headers: `tarfile` takes a broken one in the middle for the end, and believes any size."""
    end = path.stat().st_size
    with path.open("rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise _invalid(uri, "it is compressed; samples are read by offset, so store it uncompressed")
        file.seek(0)
        for _ in range(_MAX_MEMBERS):
            header = file.read(_BLOCK)
            if not header.strip(b"\0"):
                return
            size = _payload_size(header, uri, file.tell() - len(header))
            if file.tell() + size > end:
                raise _invalid(uri, f"it is cut off: it has {end} bytes, but needs {file.tell() + size}")
            file.seek(-(-size // _BLOCK) * _BLOCK, io.SEEK_CUR)
    raise _invalid(uri, f"it has more than {_MAX_MEMBERS} members")


def _payload_size(header: bytes, uri: str, offset: int) -> int:
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise _invalid(uri, f"{error} at byte {offset}") from error
    if info.size < 0 or (info.type in _NAME_HEADERS and info.size > _MAX_NAME_HEADER):
        raise _invalid(uri, f"the header at byte {offset} claims {info.size} bytes")
    if info.type == tarfile.GNUTYPE_SPARSE:
        raise _invalid(uri, f"the sparse file at byte {offset} is not supported")
    has_payload = info.isreg() or info.type in _NAME_HEADERS or info.type not in tarfile.SUPPORTED_TYPES
    return info.size if has_payload else 0


def _invalid(uri: str, why: str) -> ServiceError:
    shown = printable(uri)
    return ServiceError("ARCHIVE_INVALID", f"{shown} is not a tar that can be read: {why}", uri=shown)

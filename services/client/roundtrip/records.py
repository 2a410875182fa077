"""Records of manifests in lines (CSV, JSON Lines), each with the very bytes that it stands in."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

from services.client.roundtrip.errors import RoundTripError

MAX_LINE_BYTES = 1 << 20
"""As manifests have it (docs/manifests.md); a record of CSV may have several lines."""
MAX_RECORD_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A sample in a manifest.

    Attributes:
        line: That it starts on, from 1.
        raw: Its bytes, with the line break.
        sample_id: Its id; None for what is no sample: a header, a blank line.
        label: As text.
        uri: Of its image, or of the tar that holds it.
        member: Its name in the tar; empty without one.
    """

    line: int
    raw: bytes
    sample_id: str | None = None
    label: str = ""
    uri: str = ""
    member: str = ""


class TextManifest(Protocol):
    """A manifest in lines."""

    def records(self) -> Iterator[Record]:
        """Every record, in order; their bytes laid end to end are the file. Raises RoundTripError."""
        ...

    def relabelled(self, record: Record, label: str) -> bytes:
        """The bytes of a record with another label."""
        ...


@dataclass
class Lines:
    """Lines of a file as text; `take` gives the bytes of those that were read since it was last called."""

    file: BinaryIO
    path: Path
    count: int = 0
    _taken: list[bytes] = field(default_factory=list)
    _held: int = 0

    def __iter__(self) -> Iterator[str]:
        while data := self._read():
            self.count += 1
            self._taken.append(data)
            self._held += len(data)
            if len(data) > MAX_LINE_BYTES or self._held > MAX_RECORD_BYTES:
                refuse(self.path, self.count, f"is longer than {MAX_LINE_BYTES:,} bytes")
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                refuse(self.path, self.count, f"is not UTF-8 at byte {error.start + 1}: save the file as UTF-8")
            yield text.removeprefix("\ufeff") if self.count == 1 else text

    def take(self) -> bytes:
        data = b"".join(self._taken)
        self._taken, self._held = [], 0
        return data

    def _read(self) -> bytes:
        try:
            return self.file.readline(MAX_LINE_BYTES + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise RoundTripError(f"{self.path} cannot be read as gzip: {error}") from error


def to_record(values: dict[str, object], path: Path, line: int, raw: bytes) -> Record:
    """A record from its values. Raises RoundTripError."""
    label = values.get("label")
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    sample_id, uri, member = values.get("id"), values.get("uri"), values.get("member") or ""
    for name, value in (("id", sample_id), ("label", label), ("uri", uri), ("member", member)):
        if not isinstance(value, str) or (not value and name != "member"):
            refuse(path, line, f"{name} is missing or no text; `eif audit` would refuse this manifest too")
    return Record(line=line, raw=raw, sample_id=str(sample_id), label=str(label), uri=str(uri), member=str(member))


def refuse(path: Path, line: int, why: str) -> NoReturn:
    """Raise RoundTripError that names file and line."""
    raise RoundTripError(f"{path}, line {line}: {why}")

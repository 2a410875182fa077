"""Records of manifests in lines (CSV, JSON Lines), each with the very bytes that it stands in.

A label is replaced inside its record's own text: no other byte of the record is touched.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol, cast

from services.client.roundtrip.errors import RoundTripError

MAX_LINE_BYTES = 1 << 20
"""As manifests have it (docs/manifests.md); a record of CSV may have several lines."""
MAX_RECORD_BYTES = 16 << 20
_CSV_FIELD = re.compile(r'"(?:[^"]|"")*"|[^,\r\n]*')
_CSV_NEEDS_QUOTES = re.compile(r'[",\r\n]|^\s|\s$')
_JSON = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


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


class CsvManifest:
    """RFC 4180 with a header, in UTF-8."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []

    def records(self) -> Iterator[Record]:
        with self._path.open("rb") as file:
            lines = _Lines(file, self._path)
            reader = csv.reader(lines, strict=True)
            line = 1
            while (values := self._next(reader, line)) is not None:
                yield self._record(values, line, lines.take())
                line = lines.count + 1

    def relabelled(self, record: Record, label: str) -> bytes:
        text = record.raw.decode()
        start, end = _csv_span(text, self._columns.index("label"))
        quoted = text[start:end].startswith('"') or _CSV_NEEDS_QUOTES.search(label) is not None
        written = '"' + label.replace('"', '""') + '"' if quoted else label
        return (text[:start] + written + text[end:]).encode()

    def _next(self, reader: Iterator[list[str]], line: int) -> list[str] | None:
        try:
            return next(reader, None)
        except csv.Error as error:
            _refuse(self._path, line, f"is not valid CSV: {error}")

    def _record(self, values: list[str], line: int, raw: bytes) -> Record:
        if not self._columns and values:
            self._columns = _checked_columns(values, self._path)
            return Record(line=line, raw=raw)
        if not values:
            return Record(line=line, raw=raw)
        if len(values) != len(self._columns):
            _refuse(self._path, line, f"has {len(values)} values, but the header names {len(self._columns)} columns")
        return _to_record(dict(zip(self._columns, values, strict=True)), self._path, line, raw)


class JsonlManifest:
    """One JSON object a line, in UTF-8; gzipped where the name says so."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def records(self) -> Iterator[Record]:
        is_gzip = self._path.name.lower().endswith(".gz")
        with cast("BinaryIO", gzip.open(self._path, "rb")) if is_gzip else self._path.open("rb") as file:
            lines = _Lines(file, self._path)
            for line, text in enumerate(lines, 1):
                raw = lines.take()
                yield self._record(text, line, raw) if text.strip() else Record(line=line, raw=raw)

    def relabelled(self, record: Record, label: str) -> bytes:
        text = record.raw.decode()
        start, end = _json_span(text, "label")
        was_number = not text[start:end].startswith('"')
        written = (
            label if was_number and re.fullmatch(r"0|-?[1-9][0-9]*", label) else json.dumps(label, ensure_ascii=False)
        )
        return (text[:start] + written + text[end:]).encode()

    def _record(self, text: str, line: int, raw: bytes) -> Record:
        try:
            values = json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            _refuse(self._path, line, f"is not valid JSON: {error}")
        if not isinstance(values, dict):
            _refuse(self._path, line, "must be a JSON object")
        return _to_record(values, self._path, line, raw)


@dataclass
class _Lines:
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
                _refuse(self.path, self.count, f"is longer than {MAX_LINE_BYTES:,} bytes")
            try:
                text = data.decode()
            except UnicodeDecodeError as error:
                _refuse(self.path, self.count, f"is not UTF-8 at byte {error.start + 1}: save the file as UTF-8")
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


def _checked_columns(columns: list[str], path: Path) -> list[str]:
    for name in ("id", "uri", "label"):
        if columns.count(name) != 1:
            found = "has no column" if name not in columns else "has more than one column"
            raise RoundTripError(f"{path} {found} {name}; is it a manifest?")
    return columns


def _to_record(values: dict[str, object], path: Path, line: int, raw: bytes) -> Record:
    label = values.get("label")
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    sample_id, uri, member = values.get("id"), values.get("uri"), values.get("member") or ""
    for name, value in (("id", sample_id), ("label", label), ("uri", uri), ("member", member)):
        if not isinstance(value, str) or (not value and name != "member"):
            _refuse(path, line, f"{name} is missing or no text; `eif audit` would refuse this manifest too")
    return Record(line=line, raw=raw, sample_id=str(sample_id), label=str(label), uri=str(uri), member=str(member))


def _csv_span(text: str, column: int) -> tuple[int, int]:
    """Where the value of a column stands in the text of a record."""
    position = 0
    for number in range(column + 1):
        match = _CSV_FIELD.match(text, position)
        if match is None or (number < column and text[match.end() : match.end() + 1] != ","):
            raise ValueError("the text is not the CSV record that was parsed from it")
        if number == column:
            return match.span()
        position = match.end() + 1
    raise ValueError("columns are counted from 0")


def _json_span(text: str, name: str) -> tuple[int, int]:
    """Where the value of a field stands in the text of an object that is known to be valid and to have it once."""
    position = _skip(text, text.index("{") + 1)
    while True:
        key, position = _JSON.raw_decode(text, position)
        start = _skip(text, _skip(text, position) + 1)  # past the colon
        _, end = _JSON.raw_decode(text, start)
        if key == name:
            return start, end
        position = _skip(text, _skip(text, end) + 1)  # past the comma


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a field is given twice")
    return values


def _refuse(path: Path, line: int, why: str) -> NoReturn:
    raise RoundTripError(f"{path}, line {line}: {why}")

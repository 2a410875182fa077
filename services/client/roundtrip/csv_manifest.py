"""Manifests in CSV. A label is replaced inside its record's own text: no other byte of it is touched."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.records import Lines, Record, refuse, to_record

_FIELD = re.compile(r'"(?:[^"]|"")*"|[^,\r\n]*')
_NEEDS_QUOTES = re.compile(r'[",\r\n]|^\s|\s$')


class CsvManifest:
    """RFC 4180 with a header, in UTF-8."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] = []

    def records(self) -> Iterator[Record]:
        with self._path.open("rb") as file:
            lines = Lines(file, self._path)
            reader = csv.reader(lines, strict=True)
            line = 1
            while (values := self._next(reader, line)) is not None:
                yield self._record(values, line, lines.take())
                line = lines.count + 1

    def relabelled(self, record: Record, label: str) -> bytes:
        text = record.raw.decode()
        start, end = _span(text, self._columns.index("label"))
        quoted = text[start:end].startswith('"') or _NEEDS_QUOTES.search(label) is not None
        written = '"' + label.replace('"', '""') + '"' if quoted else label
        return (text[:start] + written + text[end:]).encode()

    def _next(self, reader: Iterator[list[str]], line: int) -> list[str] | None:
        try:
            return next(reader, None)
        except csv.Error as error:
            refuse(self._path, line, f"is not valid CSV: {error}")

    def _record(self, values: list[str], line: int, raw: bytes) -> Record:
        if not self._columns and values:
            self._columns = _checked_columns(values, self._path)
            return Record(line=line, raw=raw)
        if not values:
            return Record(line=line, raw=raw)
        if len(values) != len(self._columns):
            refuse(self._path, line, f"has {len(values)} values, but the header names {len(self._columns)} columns")
        return to_record(dict(zip(self._columns, values, strict=True)), self._path, line, raw)


def _checked_columns(columns: list[str], path: Path) -> list[str]:
    for name in ("id", "uri", "label"):
        if columns.count(name) != 1:
            found = "has no column" if name not in columns else "has more than one column"
            raise RoundTripError(f"{path} {found} {name}; is it a manifest?")
    return columns


def _span(text: str, column: int) -> tuple[int, int]:
    """Where the value of a column stands in the text of a record."""
    position = 0
    for number in range(column + 1):
        match = _FIELD.match(text, position)
        if match is None or (number < column and text[match.end() : match.end() + 1] != ","):
            raise ValueError("the text is not the CSV record that was parsed from it")
        if number == column:
            return match.span()
        position = match.end() + 1
    raise ValueError("columns are counted from 0")

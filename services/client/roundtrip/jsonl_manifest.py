"""Manifests in JSON Lines. A label is replaced inside its record's own text: no other byte of it is touched."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from services.client.roundtrip.records import Lines, Record, refuse, to_record

_JSON = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")


class JsonlManifest:
    """One JSON object a line, in UTF-8; gzipped where the name says so."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def records(self) -> Iterator[Record]:
        is_gzip = self._path.name.lower().endswith(".gz")
        with cast("BinaryIO", gzip.open(self._path, "rb")) if is_gzip else self._path.open("rb") as file:
            lines = Lines(file, self._path)
            for line, text in enumerate(lines, 1):
                raw = lines.take()
                yield self._record(text, line, raw) if text.strip() else Record(line=line, raw=raw)

    def relabelled(self, record: Record, label: str) -> bytes:
        text = record.raw.decode()
        start, end = _span(text, "label")
        was_number = not text[start:end].startswith('"')
        written = label if was_number and _INTEGER.fullmatch(label) else json.dumps(label, ensure_ascii=False)
        return (text[:start] + written + text[end:]).encode()

    def _record(self, text: str, line: int, raw: bytes) -> Record:
        try:
            values = json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            refuse(self._path, line, f"is not valid JSON: {error}")
        if not isinstance(values, dict):
            refuse(self._path, line, "must be a JSON object")
        return to_record(values, self._path, line, raw)


def _span(text: str, name: str) -> tuple[int, int]:
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

"""What people decided about samples: the file that goes from a review to the manifest and to the next audit.

CSV with a header, or JSON Lines, told by the suffix (`.csv`, `.jsonl`); columns `id`, `label` and `decision` are
required, `new_label` and `note` optional, others are passed over. `label` is the label that was looked at. A row whose
`decision` is empty has not been decided, and is passed over too, so that an exported list can be filled in piece by
piece. When a sample is named twice, the later row is the newer one.

Plain Python: the client has it without the server's packages.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NoReturn

FORMATS = (".csv", ".jsonl")
MAX_ROWS = 5_000_000
MAX_LINE_BYTES = 64 << 10
MAX_BYTES = 2 << 30
_REQUIRED = ("id", "label", "decision")
_COLUMNS = (*_REQUIRED, "new_label", "note")
_MAX_LENGTH = {"id": 1024, "label": 1024, "new_label": 1024, "note": 4096}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class DecisionKind(StrEnum):
    """What is to become of a sample."""

    KEEP = "keep"
    """Its label was looked at and is right."""
    RELABEL = "relabel"
    REMOVE = "remove"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided about a sample.

    Attributes:
        sample_id: Its id in the manifest.
        label: The label that was looked at.
        kind: What is to become of it.
        new_label: The label that it gets; empty unless it is relabelled.
        note: Of whoever decided.
    """

    sample_id: str
    label: str
    kind: DecisionKind
    new_label: str = ""
    note: str = ""


class DecisionsInvalid(Exception):
    """A file of decisions breaks its rules.

    Args:
        message: Names file, line and field, and says what to do.
        line: From 1; 0 where it is the file as a whole.
        field: The column, if it is about one.
    """

    def __init__(self, message: str, *, line: int = 0, field: str = "") -> None:
        super().__init__(message)
        self.line = line
        self.field = field


def read_decisions(source: Path | bytes, name: str = "") -> list[Decision]:
    """Read the rows that are decided, in their order.

    Args:
        source: A file, or what is in it.
        name: Its name to the caller, for errors; the suffix tells the format. The path, when empty.

    Raises:
        DecisionsInvalid: Naming the file, the line and the field.
        OSError: The file cannot be read.
    """
    name = name or str(source if isinstance(source, Path) else "decisions")
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        rows = _rows_of(name)(_lines(file, name), name)
        return [decision for line, row in rows if (decision := _decision(row, name, line))]


def newest(decisions: Iterable[Decision]) -> dict[str, Decision]:
    """By sample: the last decision about each."""
    return {decision.sample_id: decision for decision in decisions}


def reviewed_labels(decisions: Iterable[Decision]) -> set[tuple[str, str]]:
    """(sample, label) that people have found right: labels that are kept, and those that were given instead."""
    return {
        (decision.sample_id, decision.new_label if decision.kind is DecisionKind.RELABEL else decision.label)
        for decision in newest(decisions).values()
        if decision.kind is not DecisionKind.REMOVE
    }


def write_decisions(decisions: Iterable[Decision], path: Path) -> None:
    """Write decisions as CSV; the file is complete or as it was."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            for one in decisions:
                writer.writerow((one.sample_id, one.label, one.kind, one.new_label, one.note))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _rows_of(name: str) -> type[_CsvRows | _JsonRows]:
    lowered = name.lower()
    if lowered.endswith(".csv"):
        return _CsvRows
    if lowered.endswith(".jsonl"):
        return _JsonRows
    raise DecisionsInvalid(f"{name}: a file of decisions ends with {' or '.join(FORMATS)}")


class _CsvRows:
    """Rows of CSV with a header, each with the line that it starts on."""

    def __init__(self, lines: Iterator[str], name: str) -> None:
        self._reader = csv.reader(lines, strict=True)
        self._name = name

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, object]]]:
        header = self._next(1)
        if header is None:
            raise DecisionsInvalid(f"{self._name} is empty: it needs a header with {', '.join(_REQUIRED)}")
        _check_header(header, self._name)
        while True:
            line = self._reader.line_num + 1
            values = self._next(line)
            if values is None:
                return
            if len(values) not in {0, len(header)}:
                _refuse(self._name, line, f"has {len(values)} values, but the header names {len(header)} columns")
            if values:
                yield line, dict(zip(header, values, strict=True))

    def _next(self, line: int) -> list[str] | None:
        try:
            return next(self._reader, None)
        except csv.Error as error:
            _refuse(self._name, line, f"is not valid CSV: {error}")


class _JsonRows:
    """Rows of JSON Lines; blank lines are skipped."""

    def __init__(self, lines: Iterator[str], name: str) -> None:
        self._lines = lines
        self._name = name

    def __iter__(self) -> Iterator[tuple[int, Mapping[str, object]]]:
        for line, text in enumerate(self._lines, 1):
            if text.strip():
                yield line, self._object(text, line)

    def _object(self, text: str, line: int) -> dict[str, object]:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            _refuse(self._name, line, f"is not valid JSON: {error}")
        if not isinstance(value, dict):
            _refuse(self._name, line, "must be a JSON object")
        return value


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    """Lines as text, never holding more than one of at most MAX_LINE_BYTES."""
    line = total = 0
    while data := file.readline(MAX_LINE_BYTES + 1):
        line += 1
        total += len(data)
        if len(data) > MAX_LINE_BYTES:
            _refuse(name, line, f"is longer than {MAX_LINE_BYTES:,} bytes")
        if line > MAX_ROWS or total > MAX_BYTES:
            _refuse(name, line, f"is past the limit of {MAX_ROWS:,} lines and {MAX_BYTES:,} bytes")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            _refuse(name, line, f"is not UTF-8 at byte {error.start + 1} of the line: save the file as UTF-8")
        yield text.removeprefix("\ufeff") if line == 1 else text


def _check_header(header: list[str], name: str) -> None:
    for column in _REQUIRED:
        if column not in header:
            raise DecisionsInvalid(
                f"{name} has no column {column}; it has {', '.join(map(repr, header[:20]))}", line=1, field=column
            )
    for column in _COLUMNS:
        if header.count(column) > 1:
            raise DecisionsInvalid(f"{name} has two columns named {column}", line=1, field=column)


def _decision(row: Mapping[str, object], name: str, line: int) -> Decision | None:
    """The decision in a row; None where there is none yet."""
    word = row.get("decision")
    if word is None or word == "":
        return None
    known = {kind.value: kind for kind in DecisionKind}
    kind = known.get(word.strip().lower()) if isinstance(word, str) else None
    if kind is None:
        _refuse(name, line, f"decision is {_shown(word)}; it is keep, relabel or remove, or empty", "decision")
    sample_id, label = _text(row, "id", name, line), _text(row, "label", name, line)
    note = _text(row, "note", name, line, required=False)
    if kind is not DecisionKind.RELABEL:
        return Decision(sample_id=sample_id, label=label, kind=kind, note=note)
    new_label = _text(row, "new_label", name, line)
    if new_label == label:
        _refuse(name, line, "new_label is the label that the sample has; to leave it so, decide keep", "new_label")
    return Decision(sample_id=sample_id, label=label, kind=kind, new_label=new_label, note=note)


def _text(row: Mapping[str, object], field: str, name: str, line: int, *, required: bool = True) -> str:
    value = row.get(field)
    if isinstance(value, int) and not isinstance(value, bool) and field in {"label", "new_label"}:
        value = str(value)  # as in a manifest, where 7 and "7" are one label
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        _refuse(
            name,
            line,
            f"{field} must be text, not {_shown(value)}" if value is not None else f"{field} is missing",
            field,
        )
    if required and not value.strip():
        _refuse(name, line, f"{field} is empty", field)
    if len(value) > _MAX_LENGTH[field]:
        _refuse(name, line, f"{field} has {len(value):,} characters, over the limit of {_MAX_LENGTH[field]:,}", field)
    if _CONTROL.search(value):
        _refuse(name, line, f"{field} has a control character: {_shown(value)}", field)
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _refuse(name: str, line: int, why: str, field: str = "") -> NoReturn:
    raise DecisionsInvalid(f"{name}, line {line}: {why}", line=line, field=field)

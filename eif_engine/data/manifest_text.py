"""Manifests of lines: JSON Lines (also gzipped) and CSV, in UTF-8."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn, cast

from eif_engine.data.manifest_limits import ManifestLimits
from eif_engine.data.manifest_row import REQUIRED, Row, row_error
from eif_engine.errors import ManifestInvalid

if TYPE_CHECKING:
    from _csv import Reader

_BOM = "\ufeff"


def jsonl_rows(path: Path, uri: str, limits: ManifestLimits) -> Iterator[Row]:
    """One JSON object a line; blank lines are skipped."""
    for line, text in _lines(path, uri, limits):
        if text.strip():
            yield Row(line, _parse_json(text, uri, line, limits))


def csv_rows(path: Path, uri: str, limits: ManifestLimits) -> Iterator[Row]:
    """RFC 4180 with a header; every value is text. A row's line is the one it starts on."""
    reader = csv.reader((text for _, text in _lines(path, uri, limits)), strict=True)
    header = _csv_header(reader, uri, limits)
    while True:
        line = reader.line_num + 1
        values = _next_row(reader, uri, line)
        if values is None:
            return
        if not values:
            continue
        if len(values) != len(header):
            raise row_error(uri, line, f"has {len(values)} values, but the header names {len(header)} columns")
        yield Row(line, dict(zip(header, values, strict=True)))


def _csv_header(reader: Reader, uri: str, limits: ManifestLimits) -> list[str]:
    header = _next_row(reader, uri, 1)
    if header is None:
        raise ManifestInvalid(f"{uri} is empty: it has no header", uri=uri)
    check_columns(header, uri, limits)
    return header


def _next_row(reader: Reader, uri: str, line: int) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise row_error(uri, line, f"is not valid CSV: {error}") from error


def check_columns(columns: list[str], uri: str, limits: ManifestLimits) -> None:
    """Raise ManifestInvalid unless the columns of a table are those of a manifest."""
    for name in REQUIRED:
        if name not in columns:
            raise ManifestInvalid(
                f"{uri} has no column {name!r}; its columns are {', '.join(map(repr, columns[:20]))}",
                uri=uri,
                field=name,
            )
    if len(columns) > limits.max_columns:
        raise ManifestInvalid(f"{uri} has {len(columns):,} columns, over the limit of {limits.max_columns:,}", uri=uri)
    for name in columns:
        if columns.count(name) > 1:
            raise ManifestInvalid(f"{uri} has two columns named {name!r}", uri=uri, field=name)


def _parse_json(text: str, uri: str, line: int, limits: ManifestLimits) -> dict[str, object]:
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise row_error(uri, line, "is nested too deeply") from error
    except ValueError as error:
        raise row_error(uri, line, f"is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise row_error(uri, line, f"must be a JSON object, not {type(value).__name__}")
    if len(value) > limits.max_columns:
        raise row_error(uri, line, f"has {len(value):,} fields, over the limit of {limits.max_columns:,}")
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field {twice!r} is given twice")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _lines(path: Path, uri: str, limits: ManifestLimits) -> Iterator[tuple[int, str]]:
    """Lines as text, from 1, never holding more than one line of at most `max_line_bytes`."""
    total = 0
    line = 0
    with _open(path, uri) as file:
        while data := _read_line(file, uri, line + 1, limits):
            line += 1
            total += len(data)
            if line > limits.max_rows:
                raise row_error(uri, line, f"is over the limit of {limits.max_rows:,} lines")
            if total > limits.max_bytes:
                raise row_error(uri, line, f"is past the limit of {limits.max_bytes:,} bytes (decompressed)")
            yield line, _decode(data, uri, line)


def _open(path: Path, uri: str) -> BinaryIO:
    if uri.lower().endswith(".gz"):
        return cast("BinaryIO", gzip.open(path, "rb"))
    return path.open("rb")


def _read_line(file: BinaryIO, uri: str, line: int, limits: ManifestLimits) -> bytes:
    try:
        data = file.readline(limits.max_line_bytes + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise row_error(uri, line, f"cannot be read: {error}") from error
    if len(data) > limits.max_line_bytes:
        raise row_error(uri, line, f"is longer than {limits.max_line_bytes:,} bytes")
    return data


def _decode(data: bytes, uri: str, line: int) -> str:
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise row_error(
            uri, line, f"is not UTF-8 at byte {error.start + 1} of the line: save the file as UTF-8"
        ) from error
    return text.removeprefix(_BOM) if line == 1 else text

"""Rows on standard output: a table for people, JSON lines or CSV for programs."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

import click

from services.client.cli.choices import choice_option
from services.client.cli.text import printable

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Cells = Mapping[str, Any]
_SAMPLED_ROWS = 200


class Format(StrEnum):
    """How rows are written."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"


def format_option(default: Format = Format.TABLE) -> Callable[[Any], Any]:
    """The `--format` option."""
    return choice_option("--format", "form", kind=Format, default=default, help="How rows are written.")


def write_rows(columns: Sequence[str], rows: Iterable[Cells], form: Format, *, empty: str = "nothing found") -> None:
    """Write rows as they come; memory does not grow with them.

    Args:
        columns: What is written of each row, in this order.
        rows: Cells by column.
        form: The format.
        empty: Said on standard error when a table has no rows.
    """
    match form:
        case Format.TABLE:
            _write_table(columns, iter(rows), sys.stdout, empty)
        case Format.JSONL:
            for row in rows:
                sys.stdout.write(f"{to_json({name: row[name] for name in columns})}\n")
        case Format.CSV:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows([_csv_cell(row[name]) for name in columns] for row in rows)


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON in ASCII: nothing in it can steer a terminal, and every character survives."""
    return json.dumps(value, default=_plain, indent=indent)


def fields_of(record: DataclassInstance) -> dict[str, Any]:
    """A dataclass of the client as cells."""
    return asdict(record)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _write_table(columns: Sequence[str], rows: Iterator[Cells], out: TextIO, empty: str) -> None:
    lines = ([cell(row[name]) for name in columns] for row in rows)
    head = list(itertools.islice(lines, _SAMPLED_ROWS))
    if not head:
        click.echo(empty, err=True)
        return
    widths = [max(map(_width, column)) for column in zip(columns, *head, strict=True)]
    heading = _line(columns, widths)
    out.write(f"{click.style(heading, bold=True) if out.isatty() else heading}\n")
    out.writelines(f"{_line(cells, widths)}\n" for cells in itertools.chain(head, lines))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)).rstrip()


def cell(value: object) -> str:
    """A value for people."""
    match value:
        case str():
            return printable(value)
        case None:
            return ""
        case float():
            return f"{value:.6g}"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%SZ")
        case _:
            return printable(str(value))


def _csv_cell(value: object) -> object:
    match value:
        case str():
            return printable(value)
        case None | int() | float():
            return value
        case datetime():
            return _plain(value)
        case _:
            return to_json(value)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # characters of East Asian scripts take two columns

    return cell_len(text)

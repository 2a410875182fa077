"""Manifests in Parquet, a row group at a time. Needs pyarrow (the extra `tables`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.records import Record

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Change = Callable[[Record], "str | None"]
"""The label that a record is to have; None where it is to go."""


def parquet_records(path: Path) -> Iterator[Record]:
    """The samples of a manifest; their line is the number of the row, and they have no bytes of their own."""
    with _open(path) as file:
        yield from _records(path, file)


def rewrite_parquet(path: Path, out: Path, change: Change) -> None:
    """Write a manifest with other labels or fewer rows: schema, row groups and compression stay as they are.

    Raises:
        RoundTripError: A new label is no integer where the column of labels is one of integers.
    """
    with _open(path) as file, _writer(out, file) as writer:
        line = 0
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            writer.write_table(_changed(path, table, line, change), row_group_size=max(1, table.num_rows))
            line += table.num_rows


def _writer(out: Path, file: pq.ParquetFile) -> pq.ParquetWriter:
    import pyarrow.parquet as pq

    return pq.ParquetWriter(out, file.schema_arrow, compression=_compression(file))


def _compression(file: pq.ParquetFile) -> Any:  # noqa: ANN401  what ParquetWriter takes
    """Of each column."""
    if not file.num_row_groups:
        return "snappy"
    group = file.metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    return {column.path_in_schema: column.compression.lower().replace("uncompressed", "none") for column in columns}


def _open(path: Path) -> pq.ParquetFile:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise RoundTripError(f"{path} needs pyarrow: pip install 'eif-service[tables]'") from error
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowException as error:
        raise RoundTripError(f"{path} is not valid Parquet: {error}") from error
    missing = [name for name in ("id", "uri", "label") if name not in file.schema_arrow.names]
    if missing:
        raise RoundTripError(f"{path} has no column {', '.join(missing)}; is it a manifest?")
    return file


def _records(path: Path, file: pq.ParquetFile) -> Iterator[Record]:
    columns = [name for name in ("id", "uri", "label", "member") if name in file.schema_arrow.names]
    line = 0
    for number in range(file.num_row_groups):
        table = file.read_row_group(number, columns=columns)
        yield from _rows(path, table, line)
        line += table.num_rows


def _rows(path: Path, table: pa.Table, before: int) -> Iterator[Record]:
    values = {name: table[name].to_pylist() for name in table.column_names}
    members = values.get("member", [None] * table.num_rows)
    rows = zip(values["id"], values["uri"], values["label"], members, strict=True)
    for line, (sample_id, uri, label, member) in enumerate(rows, before + 1):
        if sample_id is None or uri is None or label is None:
            raise RoundTripError(f"{path}, row {line}: id, uri or label is missing")
        yield Record(line=line, raw=b"", sample_id=str(sample_id), label=str(label), uri=str(uri), member=member or "")


def _changed(path: Path, table: pa.Table, before: int, change: Change) -> pa.Table:
    import pyarrow as pa

    records = list(
        _rows(path, table.select([n for n in ("id", "uri", "label", "member") if n in table.column_names]), before)
    )
    labels = [change(record) for record in records]
    if any(label != record.label for label, record in zip(labels, records, strict=True)):
        place = table.column_names.index("label")
        field = table.schema.field("label")
        column = _column(
            path,
            field.type,
            [record.label if label is None else label for label, record in zip(labels, records, strict=True)],
        )
        table = table.set_column(place, field, column)
    kept = [label is not None for label in labels]
    return table if all(kept) else table.filter(pa.array(kept))


def _column(path: Path, kind: pa.DataType, labels: list[str]) -> Any:  # noqa: ANN401  an array of that type
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return pa.array(labels, type=kind.value_type).dictionary_encode().cast(kind)
    if not pa.types.is_integer(kind):
        return pa.array(labels, type=kind)
    try:
        return pa.array([int(label) for label in labels], type=kind)
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise RoundTripError(f"{path}: its labels are {kind}, and a new label is not: {error}") from error

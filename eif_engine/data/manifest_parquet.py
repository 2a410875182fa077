"""Manifests in Parquet, read in small batches with repeated strings left as dictionaries.

Nested and binary columns are not read: nothing can be grouped by them, and a few bytes of file can unfold to gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from eif_engine.data.manifest_limits import ManifestLimits
from eif_engine.data.manifest_row import OPTIONAL, Row, row_error
from eif_engine.data.manifest_text import check_columns
from eif_engine.errors import ManifestInvalid

BATCH_ROWS = 4096
_MAX_THRIFT = 64 * 2**20


def parquet_rows(path: Path, uri: str, limits: ManifestLimits) -> Iterator[Row]:
    """Rows of a Parquet file; a row's line is its number, from 1."""
    try:
        with _open(path) as file:
            _check_file(file, uri, limits)
            line = 0
            columns = [field.name for field in file.schema_arrow if _is_flat(field.type)]
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
                yield from _rows(batch, line, uri, limits)
                line += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ManifestInvalid(f"{uri} is not valid Parquet: {error}", uri=uri) from error


def _open(path: Path) -> pq.ParquetFile:
    """Repeated strings stay as dictionary indices: megabytes repeated a million times take their size once."""
    with _parquet_file(path, read_dictionary=None) as file:
        texts = [field.name for field in file.schema_arrow if _is_text(field.type)]
    return _parquet_file(path, read_dictionary=texts)


def _parquet_file(path: Path, *, read_dictionary: list[str] | None) -> pq.ParquetFile:
    return pq.ParquetFile(
        path,
        read_dictionary=read_dictionary,
        thrift_string_size_limit=_MAX_THRIFT,
        thrift_container_size_limit=_MAX_THRIFT,
    )


def _check_file(file: pq.ParquetFile, uri: str, limits: ManifestLimits) -> None:
    schema = file.schema_arrow
    check_columns(schema.names, uri, limits)
    for name in ("id", "uri", *OPTIONAL):
        if name in schema.names and not _is_text(schema.field(name).type):
            raise ManifestInvalid(
                f"{uri}: column {name!r} must be text, not {schema.field(name).type}", uri=uri, field=name
            )
    kind = schema.field("label").type
    if not (_is_text(kind) or pa.types.is_integer(kind)):
        raise ManifestInvalid(f"{uri}: column 'label' must be text or an integer, not {kind}", uri=uri, field="label")
    if file.metadata.num_rows > limits.max_rows:
        raise ManifestInvalid(
            f"{uri} has {file.metadata.num_rows:,} rows, over the limit of {limits.max_rows:,}", uri=uri
        )


def _rows(batch: pa.RecordBatch, before: int, uri: str, limits: ManifestLimits) -> Iterator[Row]:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        _check_lengths(name, column, before, uri, limits)
    columns = {name: column.to_pylist() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    for row in range(batch.num_rows):
        yield Row(before + row + 1, {name: values[row] for name, values in columns.items()})


def _check_lengths(name: str, column: pa.Array[Any], before: int, uri: str, limits: ManifestLimits) -> None:
    values = column.dictionary if isinstance(column, pa.DictionaryArray) else column
    if values.nbytes > limits.max_line_bytes:
        longest = max((len(value) for value in values.to_pylist() if isinstance(value, str | bytes)), default=0)
        if longest > limits.max_line_bytes:
            raise row_error(
                uri,
                before + 1,
                f"or one soon after it has a value of {longest:,} bytes in column {name!r}, over the limit of "
                f"{limits.max_line_bytes:,}",
                field=name,
            )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_flat(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        _is_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_temporal(kind)
    )

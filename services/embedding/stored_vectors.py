"""The vectors of an index as a Parquet file: columns `id`, `label`, `vector`, in the order of the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from services.common.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from services.embedding.vectors import Float32

ROW_GROUP_ROWS = 16_384


@dataclass(frozen=True, kw_only=True)
class StoredVectors:
    """What the file holds; `vectors_ND` is L2-normalised float32."""

    sample_ids: list[str]
    labels: list[str]
    vectors_ND: Float32


def vectors_schema(dim: int) -> pa.Schema:
    """Schema of the file for vectors of size `dim`."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("label", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.field("element", pa.float32(), nullable=False), dim), nullable=False),
        ]
    )


class VectorsWriter:
    """Writes the file batch by batch, a row group at a time, so that an index is never in memory twice."""

    def __init__(self, path: Path, *, dim: int) -> None:
        self._schema = vectors_schema(dim)
        self._dim = dim
        # Floats of normalised vectors hardly compress: the codec is there for the text and must not cost time.
        self._writer = pq.ParquetWriter(path, self._schema, compression="lz4", use_dictionary=False)
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def append(self, sample_ids: Sequence[str], labels: Sequence[str], vectors_ND: Float32) -> None:
        """Add rows. `vectors_ND` is copied."""
        flat = pa.array(np.array(vectors_ND, dtype=np.float32).ravel(), type=pa.float32())
        vectors = pa.FixedSizeListArray.from_arrays(flat, type=self._schema.field("vector").type)
        columns = [pa.array(sample_ids, pa.string()), pa.array(labels, pa.string()), vectors]
        self._waiting.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._waiting_rows += len(sample_ids)
        if self._waiting_rows >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting_rows:
            table = pa.Table.from_batches(self._waiting, schema=self._schema)
            self._writer.write_table(table, row_group_size=self._waiting_rows)
        self._waiting, self._waiting_rows = [], 0


def read_vectors(path: Path, *, uri: str = "") -> StoredVectors:
    """Read the file back, exactly.

    Raises:
        ServiceError: RESULT_CORRUPT when it is not such a file or holds values that are not finite.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(path, uri, f"cannot be read: {error}") from error
    dim = _dim_of(table)
    if dim is None or not table.schema.equals(vectors_schema(dim)):
        raise _corrupt(path, uri, "does not have the columns id, label, vector")
    vectors_ND = _matrix(table.column("vector"), dim)
    if not np.isfinite(vectors_ND).all():
        raise _corrupt(path, uri, "holds values that are not finite")
    return StoredVectors(
        sample_ids=_texts(table, "id"),
        labels=_texts(table, "label"),
        vectors_ND=vectors_ND,
    )


def _texts(table: pa.Table, name: str) -> list[str]:
    return cast("list[str]", table.column(name).to_pylist())  # the schema says that none is null


def _dim_of(table: pa.Table) -> int | None:
    if "vector" not in table.column_names:
        return None
    kind = table.schema.field("vector").type
    return kind.list_size if isinstance(kind, pa.FixedSizeListType) else None


def _matrix(column: pa.ChunkedArray[pa.FixedSizeListScalar[Any, Any]], dim: int) -> Float32:
    rows_ND = np.empty((len(column), dim), dtype=np.float32)
    start = 0
    for part in column.chunks:
        chunk = cast("pa.FixedSizeListArray[Any, Any]", part)
        rows_ND[start : start + len(chunk)] = chunk.flatten().to_numpy().reshape(len(chunk), dim)
        start += len(chunk)
    return rows_ND


def _corrupt(path: Path, uri: str, what: str) -> ServiceError:
    where = uri or path.name
    return ServiceError("RESULT_CORRUPT", f"{where} {what}: delete the index and create it again", uri=where)

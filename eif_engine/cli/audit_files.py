"""Files of the audit command: what it reads beside the case, and the tables it writes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.audit_tables import AUDIT_SCHEMAS
from eif_engine.audit_types import Audit, AuditModel, AuditSplit, Columns
from eif_engine.cases import Case
from eif_engine.errors import InvalidInput
from eif_engine.jobs.audit_data import embed

RANKING: dict[str, pa.DataType] = {
    "rank": pa.int64(),
    "sample_id": pa.string(),
    "label": pa.string(),
    "score": pa.float64(),
}
PAIRS: dict[str, pa.DataType] = {
    **dict.fromkeys(("kind", "sample_id", "neighbor_id", "label", "neighbor_label"), pa.string()),
    "distance": pa.float64(),
}


def audit_inputs(
    case: Case, columns: Mapping[str, Sequence[str]], *, embeddings: bool
) -> tuple[AuditSplit, AuditSplit, AuditModel | None]:
    """Both splits and the model of a case; with `embeddings`, those in place of features, and no model."""

    def split(ids: list[str], labels: list[str], x_NF: Tensor, columns: Mapping[str, Sequence[str]]) -> AuditSplit:
        return AuditSplit(
            sample_ids=ids,
            labels=labels,
            features_NF=embed(case.head, x_NF) if embeddings else x_NF.float(),
            digests=[None] * len(ids),
            columns=columns,
        )

    labels = [str(code) for code in case.train_labels_N.tolist()]
    classes = [str(code) for code in range(case.loss.num_classes)]
    return (
        split(case.train_ids, labels, case.train_features_NF, columns),
        split(case.test_ids, case.test_labels, case.test_features_MF, {}),
        None if embeddings else AuditModel(head=case.head, loss=case.loss, classes=classes),
    )


def read_columns(path: Path, samples: int) -> dict[str, list[str]]:
    """The columns of a table with a row for each training sample.

    Raises:
        InvalidInput: It is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise InvalidInput(f"{path}: cannot be read as a CSV table with a header: {error}", uri=str(path)) from error
    if len(rows) != samples:
        raise InvalidInput(f"{path}: has {len(rows)} rows, but the case has {samples} training samples", uri=str(path))
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise InvalidInput(
                f"{path}: row {number} has {len(row)} fields for {len(header)} columns", uri=str(path), line=number
            )
    return {name: [row[place] for row in rows] for place, name in enumerate(header)}


def write_tables(folder: Path, audit: Audit) -> None:
    """Write every table as Parquet. Raises InvalidInput where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, schema in AUDIT_SCHEMAS.items():
            arrays = [pa.array(_values(audit.tables[name][field.name]), type=field.type) for field in schema]
            _write(folder, name, pa.Table.from_arrays(arrays, schema=schema))
        _write(folder, "ranking", _by_query(audit.ranking, RANKING))
        _write(folder, "pairs", _by_query(audit.pairs, PAIRS))
    except OSError as error:
        raise InvalidInput(f"{folder}: cannot be written: {error.strerror}", uri=str(folder)) from error


def _write(folder: Path, name: str, table: pa.Table) -> None:
    part = folder / f".{name}.parquet.part"
    pq.write_table(table, part, compression="zstd")
    part.replace(folder / f"{name}.parquet")


def _by_query(queries: Mapping[str, Columns], kinds: Mapping[str, pa.DataType]) -> pa.Table:
    """One table, the queries one after the other."""
    schema = pa.schema([("query_id", pa.string()), *kinds.items()])
    tables = [schema.empty_table()]
    for query_id, columns in queries.items():
        ids = pa.array([query_id] * len(columns["label"]), type=pa.string())
        values = [pa.array(_values(columns[name]), type=kind) for name, kind in kinds.items()]
        tables.append(pa.Table.from_arrays([ids, *values], schema=schema))
    return pa.concat_tables(tables)


def _values(column: Sequence[Any] | NDArray[Any]) -> list[Any] | NDArray[Any]:
    return column if isinstance(column, np.ndarray) else list(column)

"""Jobs for the load: one that never ends, and one with a ranking of any length."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from eif.influence.v1 import job_pb2

from services.influence.tables import SCHEMAS
from tests.influence_process import InfluenceProcess

Columns = Mapping[str, Sequence[Any]]

FOREVER: Mapping[str, Any] = {"do": "forever"}


def job_of(server: InfluenceProcess, *steps: Mapping[str, Any]) -> job_pb2.InfluenceJob:
    """A rank job whose process follows the steps."""
    store = server.folder / "store"
    (store / "train.jsonl").write_text(json.dumps(steps))
    for name in ("model.json", "test.csv"):
        (store / name).write_text("")
    model, train, test = (
        job_pb2.ArtifactRef(uri=(store / name).as_uri()) for name in ("model.json", "train.jsonl", "test.csv")
    )
    return job_pb2.InfluenceJob(rank=job_pb2.RankSpec(model=model, train_manifest=train, test_manifest=test))


def ranked(folder: Path, rows: int) -> Mapping[str, Any]:
    """A step that succeeds with a ranking of so many rows."""
    ranking: Columns = {
        "query_id": ["all"] * rows,
        "rank": list(range(1, rows + 1)),
        "sample_id": [f"train/{row:09d}.png" for row in range(rows)],
        "label": [f"class-{row % 1000:04d}" for row in range(rows)],
        "score": [1 - 2 * row / rows for row in range(rows)],
    }
    return {
        "do": "succeed",
        "tables": {
            "ranking": _written(folder / "ranking.parquet", "ranking", ranking),
            "quarantine": _written(folder / "quarantine.parquet", "quarantine", {}),
        },
    }


def _written(path: Path, name: str, columns: Columns) -> Mapping[str, Any]:
    schema = SCHEMAS[name]
    table = pa.table({field.name: columns.get(field.name, []) for field in schema}, schema=schema)
    pq.write_table(table, path)
    return {"path": str(path), "rows": table.num_rows}

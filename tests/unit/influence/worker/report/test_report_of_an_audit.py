"""What the engine finds is what the report shows: a small audit with known faults, with and without a model."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eif_engine.audit_types import Audit, Columns
from eif_engine.jobs.audit import run_audit
from services.influence.tables import SCHEMAS
from services.influence.worker.report import ReportSource, write_report
from tests.audits import quick, rows_of, world
from tests.report_sources import CREATED, JOB


@cache
def audited(*, with_model: bool) -> Audit:
    small = world()
    return run_audit(train=small.train, test=small.test, model=small.model if with_model else None, config=quick())


def arrow(name: str, columns: Columns) -> pa.Table:
    arrays = [
        pa.array(
            np.asarray(columns[field.name])
            if isinstance(columns[field.name], np.ndarray)
            else list(columns[field.name]),
            type=field.type,
        )
        for field in SCHEMAS[name]
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMAS[name])


def by_query(name: str, tables: Mapping[str, Columns]) -> pa.Table:
    parts = [
        arrow(name, {**columns, "query_id": [query_id] * len(columns["sample_id"])})
        for query_id, columns in tables.items()
    ]
    return pa.concat_tables([SCHEMAS[name].empty_table(), *parts])


def report_of(audit: Audit, folder: Path) -> tuple[str, dict[str, Any]]:
    tables = {name: arrow(name, columns) for name, columns in audit.tables.items()}
    tables |= {"ranking": by_query("ranking", audit.ranking), "pairs": by_query("pairs", audit.pairs)}
    path = folder / "report.html"
    write_report(
        path, ReportSource(job=JOB, created=CREATED, figures=audit.figures, missing=audit.missing, tables=tables)
    )
    page = path.read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    return page, json.loads(data[1])


def names(data: dict[str, Any], places: Sequence[int]) -> list[str]:
    return [data["samples"][place][0] for place in places]


def test_what_was_planted_is_in_the_report(tmp_path: Path) -> None:
    audit = audited(with_model=True)
    page, data = report_of(audit, tmp_path)
    flagged = names(data, [row[0] for row in data["sections"]["issues"]["rows"] if row[2] == 1])
    issues = rows_of(audit.tables["issues"])
    assert flagged == [row["sample_id"] for row in issues if row["flagged"]]
    assert len(world().wrong_ids & set(flagged)) >= 5
    duplicates = [set(names(data, [member[0] for member in row[4]])) for row in data["sections"]["duplicates"]["rows"]]
    assert {"train:000", "train:010"} in duplicates
    assert {"test:003", "train:005"} == duplicates[0]  # the leak comes first
    assert "train:007" in names(data, [row[0] for row in data["sections"]["outliers"]["rows"]])
    assert data["sections"]["findings"]["total"] == len(audit.tables["findings"]["finding_id"])
    assert all(row[10] and row[11] for row in data["sections"]["confusions"]["rows"])
    assert page.count('class="plot"') == 4


def test_every_confusion_class_has_its_closest_pairs(tmp_path: Path) -> None:
    audit = audited(with_model=True)
    _, data = report_of(audit, tmp_path)
    rows = data["sections"]["confusions"]["rows"]
    assert len(rows) == audit.figures["confusion_classes"]
    for row in rows:
        pairs = audit.pairs[f"class:{data['labels'][row[0]]}"]
        assert names(data, [pair[0] for pair in row[8]]) == list(pairs["sample_id"])[: len(row[8])]
        assert [pair[2] for pair in row[8]] == pytest.approx(
            [float(each) for each in pairs["distance"]][: len(row[8])], rel=1e-5
        )
        assert row[9] == len(pairs["sample_id"]) == row[2]


def test_without_a_model_the_rest_is_there_and_what_is_missing_is_said(tmp_path: Path) -> None:
    audit = audited(with_model=False)
    page, data = report_of(audit, tmp_path)
    assert data["sections"]["harm"]["rows"] == []
    assert "Harm was not measured" in page
    assert "This audit has no proof" in page
    assert len(audit.missing) >= 1
    assert page.count("<li><bdi>") >= len(audit.missing)
    assert data["sections"]["issues"]["rows"]

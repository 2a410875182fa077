"""Audits made up for reports: every table by its schema, any number of findings, hostile labels, real pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from services.influence.tables import SCHEMAS
from services.influence.worker.report import ReportSource, SampleKey, thumbnail

PARTS = ("neighbors_penultimate", "neighbors_embedding", "probe_penultimate", "loss")
CREATED = datetime(2026, 11, 21, 10, 30, tzinfo=UTC)
JOB = "projects/shop/influenceJobs/nightly"


def make_table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of an audit."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMAS[name])


def photo(seed: int, edge: int = 160, *, grain: float = 8.0) -> bytes:
    """A PNG that compresses like a photograph: smooth colours and some grain."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((edge, edge))
    noise = generator.normal(0, grain, (edge, edge, 3))
    out = BytesIO()
    Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


class Album:
    """Thumbnails of a hundred pictures, over and over; knows what was asked for."""

    def __init__(self, *, grain: float = 8.0) -> None:
        self.asked: list[SampleKey] = []
        self._pictures = [thumbnail(photo(seed, grain=grain)) or b"" for seed in range(100)]

    def __call__(self, keys: Sequence[SampleKey]) -> dict[SampleKey, bytes]:
        start = len(self.asked)
        self.asked += keys
        return {key: self._pictures[(start + place) % 100] for place, key in enumerate(keys)}


def findings_table(count: int) -> pa.Table:
    """Label issues and confusions, half and half, the most severe first by kind."""
    half = count // 2
    rows = [
        _finding("confusion", place, severity=1 - place / count, other_id=f"test-{place + 1:06d}")
        for place in range(count - half)
    ] + [_finding("label_issue", place, severity=1 - place / count) for place in range(half)]
    return make_table("findings", rows)


def _finding(kind: str, place: int, *, severity: float, other_id: str = "") -> dict[str, Any]:
    split = "test" if kind == "confusion" else "train"
    sample_id = f"{split}-{place:06d}"
    return {
        "finding_id": f"{kind}:{sample_id}:class-{(place + 1) % 40}",
        "kind": kind,
        "sample_id": sample_id,
        "other_id": other_id,
        "label": f"class-{place % 40}",
        "other_label": f"class-{(place + 1) % 40}",
        "severity": severity,
        "summary": f"{sample_id} looks like class-{(place + 1) % 40}",
    }


def issues_table(samples: int, flagged: int) -> pa.Table:
    """Every training sample, the first ones flagged."""
    places = np.arange(samples)
    ids = [f"train-{place:06d}" for place in places]
    labels = np.array([f"class-{place % 40}" for place in places])
    other = np.array([f"class-{(place + 1) % 40}" for place in places])
    probability = np.linspace(0.999, 0.001, samples)
    generator = np.random.default_rng(0)
    offsets = pa.array(np.arange(0, 5 * samples + 1, 5), type=pa.int32())
    part_offsets = pa.array(np.arange(0, len(PARTS) * samples + 1, len(PARTS)), type=pa.int32())
    neighbors = [ids[(place * 7 + step) % samples] for place in places.tolist() for step in range(1, 6)]
    columns: dict[str, Any] = {
        "rank": places + 1,
        "sample_id": ids,
        "label": labels,
        "issue_probability": probability,
        "flagged": places < flagged,
        "reviewed": np.zeros(samples, dtype=bool),
        "suggested_label": np.where(places < flagged, other, labels),
        "suggested_probability": probability,
        "alternative_label": other,
        "alternative_probability": probability / 2,
        "neighbor_ids": pa.ListArray.from_arrays(offsets, pa.array(neighbors)),
        "neighbor_labels": pa.ListArray.from_arrays(offsets, pa.array(np.repeat(other, 5).tolist())),
        "part_names": pa.ListArray.from_arrays(part_offsets, pa.array(list(PARTS) * samples)),
        "part_scores": pa.ListArray.from_arrays(part_offsets, pa.array(generator.normal(size=4 * samples))),
    }
    return pa.table(columns, schema=SCHEMAS["issues"])


def harm_table(samples: int) -> pa.Table:
    """Every training sample, the most harmful first."""
    places = np.arange(samples)
    signed = np.linspace(5, -1, samples)
    columns: dict[str, Any] = {
        "rank": places + 1,
        "sample_id": [f"train-{place:06d}" for place in places],
        "label": [f"class-{place % 40}" for place in places],
        "rank_low": np.maximum(1, places - 2),
        "rank_high": np.minimum(samples, places + 5),
        "signed": signed,
        "absolute": np.abs(signed) + 1,
        "positive": np.maximum(signed, 0),
    }
    return pa.table(columns, schema=SCHEMAS["harm"])


def confusion_tables(classes: int, *, samples: int, ranked: int = 20, pairs: int = 6) -> dict[str, pa.Table]:
    """Confusion classes, their pairs and their rankings; `all` first in the ranking."""
    names = [f"class-{place}" for place in range(classes)]
    ranking = [_ranked("all", rank, rank - 1, 1 - 2 * rank / samples) for rank in range(1, samples + 1)]
    for place, name in enumerate(names):
        ends = [*range(1, ranked + 1), *range(samples - ranked + 1, samples + 1)]
        ranking += [
            _ranked(f"class:{name}", rank, (rank * 31 + place) % samples, 1.0 - 2 * (rank - 1) / (samples - 1))
            for rank in ends
        ]
    return {
        "ranking": make_table("ranking", ranking),
        "pairs": make_table("pairs", [_pair(name, at, pair) for at, name in enumerate(names) for pair in range(pairs)]),
        "confusion_classes": make_table(
            "confusion_classes", [_class(name, at, pairs, classes) for at, name in enumerate(names)]
        ),
    }


def _ranked(query_id: str, rank: int, row: int, score: float) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "rank": rank,
        "sample_id": f"train-{row:06d}",
        "label": f"class-{row % 40}",
        "score": score,
    }


def _pair(name: str, at: int, pair: int) -> dict[str, Any]:
    return {
        "query_id": f"class:{name}",
        "kind": "confusion",
        "sample_id": f"test-{at * 20 + pair:06d}",
        "neighbor_id": f"test-{at * 20 + pair + 10:06d}",
        "label": name,
        "neighbor_label": f"class-{at + 1}",
        "distance": 0.1 + pair / 100,
    }


def _class(name: str, at: int, pairs: int, classes: int) -> dict[str, Any]:
    return {
        "label": name,
        "query_id": f"class:{name}",
        "samples": 20,
        "confusions": max(1, pairs - at // max(1, classes // pairs)),
        "share": 0.3,
        "top_label": f"class-{at + 1}",
        "top_count": 1,
        "mean_distance": 0.2 + at / 1000,
        "harmful_samples": 5,
    }


def large_source(*, findings: int, samples: int = 4000, classes: int = 30, album: Album | None = None) -> ReportSource:
    """An audit with so many findings."""
    return ReportSource(
        job=JOB,
        display_name="Nightly",
        created=CREATED,
        figures={"recall_at_1": 0.7, "label_issues": float(findings // 2), "confusion_pairs": float(findings // 2)},
        tables={
            "findings": findings_table(findings),
            "issues": issues_table(samples, min(samples, findings // 2)),
            "harm": harm_table(samples),
            **confusion_tables(classes, samples=samples),
        },
        thumbnails=album or Album(),
    )

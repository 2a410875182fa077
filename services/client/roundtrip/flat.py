"""Lists to look at and to fill in: CSV and Parquet, a row a sample. A filled-in CSV is a file of decisions."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.images import Rewrite, image_of
from services.client.roundtrip.review import ReviewItem

Row = dict[str, "str | float | None"]
COLUMNS = (
    "id",
    "label",
    "decision",
    "new_label",
    "note",
    "label_probability",
    "suggested_label",
    "suggested_probability",
    "severity",
    "findings",
    "notes",
    "image",
)


def write_csv(items: Iterable[ReviewItem], out: TextIO, *, rewrites: tuple[Rewrite, ...] = ()) -> None:
    """Write CSV; `decision` is empty, and `new_label` has the suggestion."""
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row_of(item, rewrites) for item in items)


def write_parquet(items: Iterable[ReviewItem], path: Path, *, rewrites: tuple[Rewrite, ...] = ()) -> None:
    """Write the same as Parquet. Needs pyarrow (the extra `tables`)."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise RoundTripError("Parquet needs pyarrow: pip install 'eif-service[tables]'") from error
    numbers = {"label_probability", "suggested_probability", "severity"}
    schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist([row_of(item, rewrites) for item in items], schema=schema), path)


def row_of(item: ReviewItem, rewrites: tuple[Rewrite, ...] = ()) -> Row:
    """The cells of a sample."""
    suggestion = item.suggestion
    suggested = suggestion.suggested_label if suggestion else ""
    return {
        "id": item.sample_id,
        "label": item.label,
        "decision": "",
        "new_label": suggested,
        "note": "",
        "label_probability": suggestion.label_probability if suggestion else None,
        "suggested_label": suggested,
        "suggested_probability": suggestion.suggested_probability if suggestion and suggested else None,
        "severity": item.severity,
        "findings": " ".join(item.kinds),
        "notes": " / ".join(item.notes),
        "image": image_of(item, rewrites),
    }

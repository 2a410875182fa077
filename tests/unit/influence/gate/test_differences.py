"""Differences of two tables against the same made with sets."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.influence.gate.differences import Differences, Segment, window
from services.influence.gate.verdict import Change, ChangeCount
from services.influence.stored_table import StoredTable, convert
from services.influence.worker.table_file import ROW_GROUP_ROWS
from tests.audit_results import finding, write_table

ALL = frozenset(Change)
KINDS = ("confusion", "label_issue", "leak")
Findings = list[tuple[str, str]]
findings = st.lists(st.tuples(st.sampled_from(KINDS), st.text("abcß€:%", max_size=3)), unique=True, max_size=12)


def stored(folder: Path, name: str, rows: Findings) -> StoredTable:
    rows_of = [finding(kind, sample_id) for kind, sample_id in rows]
    entry = write_table(folder / name, "findings", rows_of)
    return convert("findings", folder / name / entry.file, folder / f"{name}.arrow", rows=entry.rows)


def listed(segments: list[Segment], audit: StoredTable, baseline: StoredTable) -> list[tuple[Change, str, str]]:
    """(change, kind, finding id) of each row."""
    found = []
    for segment in segments:
        table = baseline if segment.change is Change.FIXED else audit
        rows: list[dict[str, Any]] = table.read(0, len(table)).take(segment.rows).to_pylist()
        assert {row["kind"] for row in rows} <= {segment.kind}
        found += [(segment.change, row["kind"], row["finding_id"]) for row in rows]
    return found


def expected(ours: Findings, theirs: Findings) -> list[tuple[Change, str, str]]:
    """The oracle: sets, and sorting by the bytes of UTF-8."""
    a, b = ({(kind, finding(kind, sample)["finding_id"]) for kind, sample in rows} for rows in (ours, theirs))
    by_change = ((Change.NEW, a - b), (Change.FIXED, b - a), (Change.PERSISTING, a & b))
    return [
        (change, kind, finding_id)
        for change, rows in by_change
        for kind, finding_id in sorted(rows, key=lambda row: (row[0], row[1].encode()))
    ]


@settings(max_examples=60, deadline=None)
@given(ours=findings, theirs=findings, kinds=st.sets(st.sampled_from(KINDS)), changes=st.sets(st.sampled_from(Change)))
def test_it_is_what_sets_give(ours: Findings, theirs: Findings, kinds: set[str], changes: set[Change]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        audit, baseline = stored(Path(folder), "audit", ours), stored(Path(folder), "baseline", theirs)
        differences = Differences(audit, baseline)
        wanted = expected(ours, theirs)
        assert listed(differences.segments(ALL, ()), audit, baseline) == wanted
        some = [row for row in wanted if row[0] in changes and (not kinds or row[1] in kinds)]
        assert listed(differences.segments(changes, kinds), audit, baseline) == some
        assert differences.size == len(wanted)
        assert {(count.kind, change): getattr(count, change) for count in differences.counts() for change in ALL} == {
            (kind, change): sum(row[:2] == (change, kind) for row in wanted)
            for kind in {row[1] for row in wanted}
            for change in ALL
        }


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 5), max_size=5), offset=st.integers(0, 30), count=st.integers(0, 30))
def test_a_window_is_a_slice(sizes: list[int], offset: int, count: int) -> None:
    import numpy as np

    segments = [
        Segment(change=Change.NEW, kind=str(number), rows=np.arange(size) + 100 * number)
        for number, size in enumerate(sizes)
    ]
    everything = [row for segment in segments for row in segment.rows.tolist()]
    pieces = list(window(segments, offset=offset, count=count))
    assert [row for piece in pieces for row in piece.rows.tolist()] == everything[offset : offset + count]
    assert all(len(piece.rows) for piece in pieces)


def test_tables_of_several_row_groups(tmp_path: Path) -> None:
    size = ROW_GROUP_ROWS + 1000
    ours = [("confusion", f"s{number:06}") for number in range(size)]
    audit, baseline = stored(tmp_path, "audit", ours), stored(tmp_path, "baseline", [*ours[500:], ("leak", "x")])
    differences = Differences(audit, baseline)
    assert differences.counts() == (
        ChangeCount(kind="confusion", new=500, fixed=0, persisting=size - 500),
        ChangeCount(kind="leak", new=0, fixed=1, persisting=0),
    )
    (new,) = differences.segments({Change.NEW}, ())
    assert new.rows.tolist() == list(range(500))

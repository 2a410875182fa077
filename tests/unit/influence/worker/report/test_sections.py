from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.influence.tables import SCHEMAS
from services.influence.worker.report import label_issues, listings
from services.influence.worker.report.confusions import confusion_classes, query_runs
from services.influence.worker.report.duplicates import duplicates
from services.influence.worker.report.findings import fair_rows, findings
from services.influence.worker.report.limits import RowLimits
from services.influence.worker.report.report_tables import ReportTables
from services.influence.worker.report.sample_book import NOBODY, SampleBook
from services.influence.worker.report.section import number, probability
from services.influence.worker.report.source import Difference, FindingChange
from tests.report_full import full_tables
from tests.report_sources import confusion_tables, findings_table, harm_table, issues_table, make_table

IDS = tuple(f"id{place}" for place in range(7))
LABELS = tuple(f"label{place}" for place in range(7))
TABLES = full_tables(IDS, LABELS)
LIMITS = RowLimits()


def test_samples_of_the_two_splits_are_not_mixed_up() -> None:
    book = SampleBook()
    assert book.sample("train", "a", "x") == 0
    assert book.sample("test", "a", "y") == 1
    assert book.sample("train", "a", "x") == 0
    assert book.sample("train", "", "x") == NOBODY
    assert book.rows() == [["a", 0, 0], ["a", 1, 1]]
    assert book.labels == ["x", "y"]


def test_a_label_learned_later_is_kept() -> None:
    book = SampleBook()
    book.sample("train", "a", "")
    book.sample("train", "a", "x")
    assert book.rows() == [["a", 0, 0]]


def test_numbers_are_short_and_never_nan() -> None:
    assert number(0.123456789) == 0.123457
    assert [number(value) for value in (None, float("nan"), float("inf"), float("-inf"))] == [None] * 4


def test_no_estimate_is_called_certain() -> None:
    assert probability(1.0) == 0.999999
    assert probability(0.25) == 0.25
    assert probability(float("nan")) is None


def test_runs_of_queries_are_found_by_one_pass() -> None:
    runs = query_runs(pa.chunked_array([["all", "all", "a"], ["a", "b"]]))
    assert runs == {"all": range(2), "a": range(2, 4), "b": range(4, 5)}
    assert query_runs(pa.chunked_array([], type=pa.string())) == {}


def test_a_confusion_class_has_both_ends_of_its_ranking() -> None:
    tables = ReportTables(confusion_tables(3, samples=400, ranked=30))
    book = SampleBook()
    section = confusion_classes(tables, book, LIMITS)
    assert section.total == len(section.rows) == 3
    harmful, helpful = section.rows[1][10], section.rows[1][11]
    assert [entry[1] for entry in harmful] == list(range(1, 13))
    assert [entry[1] for entry in helpful] == list(range(400, 388, -1))
    assert all(entry[2] > 0 for entry in harmful)
    assert all(entry[2] < 0 for entry in helpful)
    assert book.keys[harmful[0][0]] == ("train", "train-000032")
    assert [book.keys[pair[0]][1] for pair in section.rows[1][8]] == [f"test-{20 + pair:06d}" for pair in range(6)]


def test_a_short_ranking_is_not_shown_twice() -> None:
    section = confusion_classes(ReportTables(TABLES), SampleBook(), LIMITS)
    assert [entry[1] for entry in section.rows[0][10]] == [1, 2]
    assert [entry[1] for entry in section.rows[0][11]] == [6, 5, 4, 3]


def test_flagged_samples_come_with_the_next_most_doubtful() -> None:
    tables = ReportTables({"issues": issues_table(1000, 30)})
    section = label_issues.label_issues(tables, SampleBook(), LIMITS)
    assert section.total == 1000
    assert [row[2] for row in section.rows] == [1] * 30 + [0] * label_issues.UNFLAGGED


def test_evidence_says_how_far_up_a_sample_stands() -> None:
    table = issues_table(500, 5)
    rows = table.to_pylist()
    section = label_issues.label_issues(ReportTables({"issues": table}), SampleBook(), LIMITS)
    for place in (0, 7):
        for at, (name, _, share) in enumerate(section.rows[place][9]):
            scores = np.array([row["part_scores"][at] for row in rows])
            assert name == rows[place]["part_names"][at]
            assert share == pytest.approx(np.mean(scores >= scores[place]), abs=0.01 * share)


def test_parts_may_differ_from_sample_to_sample() -> None:
    rows = TABLES["issues"].to_pylist()
    rows[0] |= {"part_names": ["loss", "odd"], "part_scores": [0.5, 3.0]}
    rows[1] |= {"part_names": [], "part_scores": []}
    ladders = label_issues.part_ladders(ReportTables({"issues": make_table("issues", rows)}))
    assert ladders["odd"].tolist() == [3.0]
    assert len(ladders["loss"]) == 6


def test_confusions_set_aside_name_the_suspect() -> None:
    book = SampleBook()
    section = label_issues.set_aside(ReportTables(TABLES), book, LIMITS)
    assert section.total == 1
    assert book.keys[section.rows[0][3]] == ("test", "id3")


def test_every_kind_has_its_share_of_the_rows() -> None:
    kinds = np.array(["a"] * 100 + ["b"] * 3 + ["c"] * 50)
    rows = fair_rows(kinds, 43)
    assert [int(np.sum(kinds[rows] == kind)) for kind in "abc"] == [20, 3, 20]
    assert rows.tolist() == sorted(rows.tolist())
    assert fair_rows(kinds, 1000).tolist() == list(range(153))
    assert fair_rows(kinds, 2).tolist() == [0, 103]
    assert len(fair_rows(np.array([], dtype=object), 5)) == 0


def test_findings_say_what_became_of_them() -> None:
    table = findings_table(6)
    ids = [row["finding_id"] for row in table.to_pylist()]
    changes = [
        FindingChange(change="new", finding_id=ids[0], kind="confusion"),
        FindingChange(change="fixed", finding_id="gone", kind="leak", sample_id="a", other_id="b", summary="was there"),
    ]
    book = SampleBook()
    section = findings(
        ReportTables({"findings": table}), book, LIMITS, Difference(previous="before", figures={}, changes=changes)
    )
    assert [row[1] for row in section.rows] == ["new", "", "", "", "", "", "fixed"]
    assert section.total == 7
    fixed = section.rows[-1]
    assert [book.keys[place] for place in fixed[3:5]] == [("train", "a"), ("test", "b")]


def test_findings_name_samples_of_the_right_split() -> None:
    rows = TABLES["findings"].to_pylist()
    rows[3]["finding_id"] = "outlier:test:id0"
    book = SampleBook()
    section = findings(ReportTables({"findings": make_table("findings", rows)}), book, LIMITS, None)
    splits = {row[0]: [book.keys[place][0] if place >= 0 else "" for place in row[3:5]] for row in section.rows}
    assert splits == {
        "confusion": ["test", "test"],
        "label_issue": ["train", ""],
        "leak": ["train", "test"],
        "outlier": ["test", ""],
        "class": ["", ""],
    }


def test_leaks_come_before_other_duplicates() -> None:
    section = duplicates(ReportTables(TABLES), SampleBook(), LIMITS)
    assert [(row[0], row[1], row[3], row[5]) for row in section.rows] == [(2, 1, 1, 2), (1, 0, 0, 2)]
    few = duplicates(ReportTables(TABLES), SampleBook(), RowLimits(listing=1, members=1))
    assert few.total == 2
    assert [(row[0], len(row[4]), row[5]) for row in few.rows] == [(2, 1, 2)]


def test_a_group_of_any_size_has_a_few_members_and_its_size() -> None:
    blank = TABLES["duplicates"].to_pylist()[0]
    rows = [{**blank, "group": 1, "sample_id": f"a{place}", "exact": True} for place in range(50)]
    rows += [{**blank, "group": 2, "sample_id": f"b{place}", "exact": place != 30} for place in range(40)]
    section = duplicates(ReportTables({"duplicates": make_table("duplicates", rows)}), SampleBook(), LIMITS)
    assert [(row[0], row[3], len(row[4]), row[5]) for row in section.rows] == [(1, 1, 12, 50), (2, 0, 12, 40)]
    assert duplicates(ReportTables({}), SampleBook(), LIMITS).rows == []


def test_a_label_conflict_names_samples_of_their_splits() -> None:
    row = {**TABLES["findings"].to_pylist()[0], "kind": "label_conflict", "sample_id": "id3", "other_id": "id2"}
    found = {"findings": make_table("findings", [row]), "duplicates": TABLES["duplicates"]}
    book = SampleBook()
    (shown,) = findings(ReportTables(found), book, LIMITS, None).rows
    assert [book.keys[place] for place in shown[3:5]] == [("test", "id3"), ("train", "id2")]


@pytest.mark.parametrize(("samples", "ranks"), [(3, [1, 2, 3]), (8, [1, 2, 3, 4, 5, 7, 8]), (6, [1, 2, 3, 4, 5, 6])])
def test_harm_has_both_ends_and_nobody_twice(samples: int, ranks: list[int]) -> None:
    tables = ReportTables({"harm": harm_table(samples)})
    section = listings.harm(tables, SampleBook(), RowLimits(harm=5, help=2))
    assert [row[1] for row in section.rows] == ranks
    assert section.total == samples


def test_quality_is_a_row_a_group_of_test_samples() -> None:
    rows = TABLES["quality"].to_pylist()
    rows.append({**rows[1], "metric": "map_at_r", "score": 0.1})
    section, metrics = listings.quality(ReportTables({"quality": make_table("quality", rows)}), LIMITS)
    assert metrics == ["recall_at_1", "map_at_r"]
    assert section.rows == [
        ["all", "", 4, 0.7, None],
        ["camera", "label1", 2, 0.4, None],
        ["class", "label0", 2, 0.2, 0.1],
    ]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_tables_read_alike_from_memory_and_from_parquet(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.parquet"
    pq.write_table(TABLES[name], path, row_group_size=2)
    memory, file = ReportTables({name: TABLES[name]}), ReportTables({name: path})
    assert memory.count(name) == file.count(name) == TABLES[name].num_rows
    for rows in (0, 1, 3, 100):
        assert memory.head(name, rows) == file.head(name, rows) == TABLES[name].slice(0, rows).to_pylist()
        assert (
            memory.tail(name, rows) == file.tail(name, rows) == TABLES[name].to_pylist()[-rows or len(TABLES[name]) :]
        )
    columns = SCHEMAS[name].names[:2]
    assert memory.columns(name, *columns) == file.columns(name, *columns)


def test_a_table_that_is_not_there_is_empty() -> None:
    tables = ReportTables({})
    assert tables.count("harm") == 0
    assert tables.head("harm", 5) == tables.matching("harm", "sample_id", ["a"], ("rank",)) == []
    assert tables.columns("harm", "rank").num_rows == 0

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from eif_engine.audit_figures import FIGURES
from eif_engine.audit_tables import AUDIT_SCHEMAS, FINDING_KINDS
from eif_engine.audit_types import Audit, AuditSplit
from eif_engine.config import FirstOrder, InfluenceConfig, QueryKind
from eif_engine.errors import InvalidInput, LabelUnknown, MemoryExceeded
from eif_engine.functional.draws import keys_of
from eif_engine.jobs.audit import AUDIT_STAGES, run_audit
from eif_engine.jobs.audit_findings import finding_id
from eif_engine.jobs.audit_influence import half_of_harm
from eif_engine.jobs.harm import HarmConfig, HarmSum
from eif_engine.jobs.issues import find_issues
from eif_engine.jobs.queries import find_queries
from eif_engine.jobs.score import Scorer
from tests.audits import World, plain, quick, rows_of, world


@pytest.fixture(scope="module")
def known() -> World:
    return world()


@pytest.fixture(scope="module")
def audit(known: World) -> Audit:
    return run_audit(train=known.train, test=known.test, model=known.model, config=quick())


def findings(audit: Audit, kind: str) -> set[str]:
    return {row["finding_id"] for row in rows_of(audit.tables["findings"]) if row["kind"] == kind}


def by_id(audit: Audit, table: str) -> dict[str, dict[str, Any]]:
    return {row["sample_id"]: row for row in rows_of(audit.tables[table])}


def test_every_table_is_there_and_fits_its_schema(audit: Audit) -> None:
    assert list(audit.tables) == list(AUDIT_SCHEMAS)
    for name, schema in AUDIT_SCHEMAS.items():
        arrays = [pa.array(list(audit.tables[name][field.name]), type=field.type) for field in schema]
        table = pa.Table.from_arrays(arrays, schema=schema)
        assert table.num_rows > 0, name
        assert not any(column.null_count for column in table.columns), name
    assert {name for name in audit.figures if not name.startswith("recall_at_")} <= set(FIGURES)
    missing = set(FIGURES) - set(audit.figures)
    assert missing == {"quarantined"}
    assert all(np.isfinite(list(audit.figures.values())))
    assert audit.missing == []
    assert list(audit.seconds) == list(AUDIT_STAGES)


def test_figures_and_tables_agree(audit: Audit) -> None:
    figures, tables = audit.figures, {name: rows_of(table) for name, table in audit.tables.items()}
    confusions = tables["confusions"]
    assert figures["confusion_pairs"] == len(confusions)
    assert figures["recall_at_1"] == pytest.approx(1 - len(confusions) / figures["test_samples"])
    aside = [row for row in confusions if row["set_aside"]]
    assert figures["confusions_set_aside"] == len(aside) > 0
    assert sum(row["confusions"] for row in tables["confusion_classes"]) == len(confusions) - len(aside)
    assert sum(row["confusions"] for row in tables["class_pairs"]) == len(confusions) - len(aside)
    assert figures["label_issues"] == sum(row["flagged"] for row in tables["issues"])
    assert figures["outliers"] == len(tables["outliers"])
    assert figures["leaks"] == len({row["group"] for row in tables["duplicates"] if row["leak"]})
    assert figures["test_label_issues"] == len(tables["test_issues"])
    advice = Counter(row["advice"] for row in tables["advice"])
    assert figures["classes_individual"] == advice["INDIVIDUAL"]
    kinds = Counter(row["kind"] for row in tables["findings"])
    assert kinds["confusion"] == len(confusions) - len(aside)
    assert kinds["label_issue"] == figures["label_issues"]


def test_what_was_planted_is_found(known: World, audit: Audit) -> None:
    assert findings(audit, "leak") == {"leak:train%3A005:test%3A003"}
    assert findings(audit, "label_conflict") == {"label_conflict:train%3A002:train%3A011"}
    assert findings(audit, "duplicate") == {"duplicate:train%3A000:train%3A010"}
    assert "outlier:train:train%3A007" in findings(audit, "outlier")
    issues = by_id(audit, "issues")
    flagged = {sample_id for sample_id, row in issues.items() if row["flagged"]}
    assert len(flagged & known.wrong_ids) >= 5
    assert flagged - known.wrong_ids <= {"train:011"}  # the duplicate under another label
    for sample_id in flagged & known.wrong_ids:
        truth = known.true_labels[int(sample_id[-3:])]
        row = issues[sample_id]
        assert row["alternative_label"] == truth
        neighbors = zip(row["neighbor_ids"], row["neighbor_labels"], strict=True)
        assert all(label == row["suggested_label"] and other != sample_id for other, label in neighbors)


def test_a_confusion_with_a_wrong_test_label_blames_no_training_sample(audit: Audit) -> None:
    assert by_id(audit, "test_issues")["test:030"]["suggested_label"] == "t0"
    row = by_id(audit, "confusions")["test:030"]
    assert row["set_aside"]
    assert (row["suspect_id"], row["suspect_suggested_label"]) == ("test:030", "t0")
    blamed = {sample for table in audit.pairs.values() for sample in (*table["sample_id"], *table["neighbor_id"])}
    assert "test:030" not in blamed
    assert finding_id("confusion", "test:030", row["neighbor_label"]) not in findings(audit, "confusion")


def test_a_stricter_screen_sets_less_aside(known: World) -> None:
    config = replace(quick(), screen_above=1.0, proofs=0)
    found = run_audit(train=known.train, test=known.test, model=None, config=config)
    assert not any(row["set_aside"] for row in rows_of(found.tables["confusions"]))
    assert found.figures["test_label_issues"] > 0


def test_ids_are_escaped_and_each_once(audit: Audit) -> None:
    assert finding_id("class", "a:b", "SAME_AS", "50%") == "class:a%3Ab:SAME_AS:50%25"
    rows = rows_of(audit.tables["findings"])
    assert len({row["finding_id"] for row in rows}) == len(rows)
    kinds = [list(FINDING_KINDS).index(row["kind"]) for row in rows]
    assert kinds == sorted(kinds)
    for first, second in pairwise(rows):
        if first["kind"] == second["kind"]:
            assert (-first["severity"], first["finding_id"]) < (-second["severity"], second["finding_id"])
    assert all(0 <= row["severity"] <= 1 and row["summary"].endswith(".") for row in rows)


def test_rankings_are_those_of_the_scorer(known: World) -> None:
    """With nothing set aside the groups are those of a rank job; harm is the sum, a class by its confusions."""
    config = replace(quick(), screen_above=1.0, proofs=0)
    found = run_audit(train=known.train, test=known.test, model=known.model, config=config)
    queries = find_queries(
        embeddings_MD=known.model.head.embed(known.test.features_NF).double(),
        labels=known.test.labels,
        sample_ids=known.test.sample_ids,
        kind=QueryKind.CONFUSION_GROUPS,
    )
    assert list(found.ranking) == ["all", *(query.query_id for query in queries)]
    scorer = Scorer(
        head=known.model.head,
        loss=known.model.loss,
        train_features=known.train.features_NF,
        train_labels_N=torch.tensor([int(label[1:]) for label in known.train.labels]),
        config=config.influence,
    )
    (chunk,) = scorer.chunks(queries, known.test.features_NF)
    total = HarmSum(known.train.sample_ids, HarmConfig(replicates=100))
    total.add(chunk.scores_QN * torch.tensor([[float(len(query.pairs))] for query in queries]))
    harm = total.harm()
    table = rows_of(found.tables["harm"])
    assert [row["sample_id"] for row in table] == [known.train.sample_ids[row] for row in harm.order_N]
    assert [row["signed"] for row in table] == pytest.approx(harm.signed_N[harm.order_N].tolist(), rel=1e-6)
    assert [row["rank_low"] for row in table] == harm.rank_low_N[harm.order_N].tolist()
    for query, scores_N in zip(queries, chunk.scores_QN.numpy(), strict=True):
        ranked = found.ranking[query.query_id]
        assert list(ranked["rank"]) == [*range(1, 6), *range(156, 161)]
        best = np.argsort(-scores_N, kind="stable")[:5]
        assert list(ranked["sample_id"])[:5] == [known.train.sample_ids[row] for row in best]


def test_half_of_the_harm() -> None:
    assert half_of_harm(np.array([-9.0, 1.0, 5.0, 2.0, 2.0])) == 1
    assert half_of_harm(np.array([1.0, 1.0, 1.0, 1.0])) == 2
    assert half_of_harm(np.array([-1.0, 0.0])) == 0


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(known: World, audit: Audit, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again = run_audit(train=known.train, test=known.test, model=known.model, config=quick())
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert plain(again) == plain(audit)


def test_reviewed_labels_are_not_flagged_again(known: World, audit: Audit) -> None:
    flagged = [row for row in rows_of(audit.tables["issues"]) if row["flagged"]]
    first, second = flagged[0], flagged[1]
    reviewed = {(first["sample_id"], first["label"]), (second["sample_id"], "another label")}
    config = replace(quick(), proofs=0)
    again = run_audit(train=known.train, test=known.test, model=known.model, config=config, reviewed=reviewed)
    found = by_id(again, "issues")
    assert found[first["sample_id"]]["reviewed"]
    assert not found[first["sample_id"]]["flagged"]
    assert found[first["sample_id"]]["issue_probability"] == first["issue_probability"]
    assert found[second["sample_id"]]["flagged"]  # what was reviewed was another label
    assert again.figures["reviewed"] == 1
    assert again.figures["label_issues"] == audit.figures["label_issues"] - 1
    assert finding_id("label_issue", first["sample_id"], first["label"]) not in findings(again, "label_issue")


def test_embeddings_alone_are_audited_and_what_is_missing_is_said(known: World, audit: Audit) -> None:
    found = run_audit(train=known.train, test=known.test, model=None, config=quick())
    empty = {name for name, table in found.tables.items() if not rows_of(table)}
    assert empty == {"harm", "proof"}
    assert found.ranking == {}
    assert len(found.missing) == 3
    assert all("model" in sentence for sentence in found.missing)
    absent = {"quarantined", "harm_of_top_percent", *(name for name in FIGURES if name.startswith("proof_"))}
    assert set(FIGURES) - set(found.figures) == absent
    assert findings(found, "leak") == findings(audit, "leak")
    flagged = {row["sample_id"] for row in rows_of(found.tables["issues"]) if row["flagged"]}
    assert len(flagged & known.wrong_ids) >= 5
    assert rows_of(found.tables["issues"])[0]["part_names"] == [
        "neighbors_penultimate",
        "neighbors_embedding",
        "probe_penultimate",
        "probe_embedding",
    ]


def test_the_issues_are_those_of_find_issues(known: World, audit: Audit) -> None:
    """Shared neighbours and folds on several cores change no number."""
    embeddings_ND = known.model.head.to(device="cpu", dtype=torch.float64).embed(known.train.features_NF.double())
    report = find_issues(
        features_NF=known.train.features_NF,
        embeddings_ND=embeddings_ND.float(),
        labels_N=torch.tensor([int(label[1:]) for label in known.train.labels]),
        num_classes=10,
        keys_N=keys_of(known.train.sample_ids),
        config=quick().issues,
    )
    rows = by_id(audit, "issues")
    found = [rows[sample_id]["issue_probability"] for sample_id in known.train.sample_ids]
    assert found == pytest.approx(report.issue_score_N.tolist(), abs=1e-9)


def test_quality_by_class_and_column(known: World, audit: Audit) -> None:
    rows = rows_of(audit.tables["quality"])
    scopes = Counter((row["scope"], row["value"]) for row in rows)
    assert scopes["all", ""] == 3  # recall@1, recall@3, MAP@R
    assert {value for scope, value in scopes if scope == "class"} == set(known.test.labels)
    assert {value for scope, value in scopes if scope == "column:batch"} == {"0", "1"}
    for metric in ("recall_at_1", "recall_at_3", "map_at_r"):
        parts = [row for row in rows if row["scope"] == "column:batch" and row["metric"] == metric]
        mean = sum(row["score"] * row["samples"] for row in parts) / sum(row["samples"] for row in parts)
        assert mean == pytest.approx(audit.figures[metric])


def test_rollups_add_up(known: World, audit: Audit) -> None:
    rows = rows_of(audit.tables["rollups"])
    assert {row["value"] for row in rows} == {"left", "right"}
    assert sum(row["samples"] for row in rows) == len(known.train)
    assert sum(row["flagged"] for row in rows) == audit.figures["label_issues"]
    assert sum(row["harm_share"] for row in rows) == pytest.approx(1)
    for row in rows:
        assert row["harm_lift"] == pytest.approx(row["harm_share"] * len(known.train) / row["samples"])


def test_the_proof_has_every_target_beside_none_and_random(audit: Audit) -> None:
    rows = rows_of(audit.tables["proof"])
    classes = [row["query_id"] for row in rows_of(audit.tables["confusion_classes"])][:2]
    targets = [(row["target"], row["action"], row["arm"], row["draws"]) for row in rows]
    assert targets == [
        ("all", "relabel", "none", 1),
        ("all", "relabel", "issues", 1),
        ("all", "relabel", "random", 2),
        *(
            (query, "reweight", arm, draws)
            for query in classes
            for arm, draws in (("none", 1), ("eif", 1), ("random", 2))
        ),
    ]
    for none, act, random in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert none["changed"] == none["distance_gain"] == none["recall_gain"] == 0
        assert act["changed"] == random["changed"] > 0
        assert act["distance_gain"] == pytest.approx(act["distance"] - none["distance"])
    reweighted = [row["distance_gain"] for row in rows if row["arm"] == "eif"]
    assert audit.figures["proof_distance_gain"] == pytest.approx(sum(reweighted) / 2)
    assert audit.figures["proof_distance_gain"] > audit.figures["proof_random_distance_gain"]


def test_stages_are_told_in_their_order(known: World) -> None:
    told: list[tuple[str, int, int]] = []
    config = replace(quick(), proofs=0)
    run_audit(
        train=known.train,
        test=known.test,
        model=None,
        config=config,
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    assert list(dict.fromkeys(stage for stage, _, _ in told)) == list(AUDIT_STAGES)
    for stage in AUDIT_STAGES:
        calls = [(done, total) for name, done, total in told if name == stage]
        assert calls[0][0] == 0
        assert calls[-1][0] == calls[-1][1]
        assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_what_progress_raises_ends_the_audit(known: World) -> None:
    def cancel(stage: str, _done: int, _total: int) -> None:
        if stage == "neighbors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_audit(train=known.train, test=known.test, model=None, config=quick(), progress=cancel)


def test_a_small_test_set_is_not_screened_and_that_is_said(known: World) -> None:
    few = take(known.test, 12)
    found = run_audit(train=known.train, test=few, model=None, config=quick())
    assert any("screen of test labels needs" in sentence for sentence in found.missing)
    assert not any(row["set_aside"] for row in rows_of(found.tables["confusions"]))
    assert rows_of(found.tables["test_issues"]) == []
    assert "test_label_issues" not in found.figures


def test_one_training_class_has_no_label_issues(known: World) -> None:
    train = replace(known.train, labels=["c0"] * len(known.train))
    found = run_audit(train=train, test=known.test, model=known.model, config=replace(quick(), proofs=1))
    assert any("two classes" in sentence for sentence in found.missing)
    assert rows_of(found.tables["issues"]) == rows_of(found.tables["canary"]) == []
    assert rows_of(found.tables["harm"])
    assert "label_issues" not in found.figures


def test_too_much_work_is_taken_to_first_order_and_that_is_said(known: World) -> None:
    config = replace(quick(), proofs=0)
    exact = run_audit(train=known.train, test=known.test, model=known.model, config=replace(config, exact_elements=1))
    asked = replace(config, influence=InfluenceConfig(step=FirstOrder(radius=0.2)))
    first = run_audit(train=known.train, test=known.test, model=known.model, config=asked)
    assert any("first order" in sentence for sentence in exact.missing)
    assert first.missing == []
    assert rows_of(exact.tables["harm"]) == rows_of(first.tables["harm"])


def test_a_budget_that_holds_no_class_is_refused(known: World) -> None:
    config = replace(quick(), memory_bytes=10_000)
    with pytest.raises(MemoryExceeded, match="memory_bytes"):
        run_audit(train=known.train, test=known.test, model=known.model, config=config)


def test_inputs_that_do_not_fit_are_refused(known: World) -> None:
    def refused(match: str, kind: type[InvalidInput] = InvalidInput, **changed: AuditSplit) -> None:
        splits = {"train": known.train, "test": known.test} | changed
        with pytest.raises(kind, match=match):
            run_audit(train=splits["train"], test=splits["test"], model=known.model, config=quick())

    refused("labels has 159 entries for 160", train=replace(known.train, labels=known.train.labels[1:]))
    refused("features, but train", test=replace(known.test, features_NF=known.test.features_NF[:, :5]))
    refused("NaN", train=replace(known.train, features_NF=known.train.features_NF * torch.nan))
    refused("not unique", test=replace(known.test, sample_ids=["same"] * len(known.test)))
    refused("needs two", test=take(known.test, 1))
    refused("'zzz'", LabelUnknown, train=replace(known.train, labels=["zzz", *known.train.labels[1:]]))


def take(split: AuditSplit, count: int) -> AuditSplit:
    return AuditSplit(
        sample_ids=split.sample_ids[:count],
        labels=split.labels[:count],
        features_NF=split.features_NF[:count],
        digests=split.digests[:count],
        columns={name: values[:count] for name, values in split.columns.items()},
    )

"""Audit jobs, from manifests and a model (or embeddings) to tables and a report."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load, save
from torch import nn

from eif_engine.audit_figures import FIGURES
from eif_engine.audit_tables import AUDIT_SCHEMAS, FINDING_KINDS
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.jobs.audit import AUDIT_STAGES
from eif_engine.losses.settings import ProxyNcaSettings
from eif_engine.models.bundle import Architecture
from eif_engine.models.save import save_bundle, state_dict_of
from eif_engine.models.small import conv4
from services.influence.messages import FailedMessage
from services.influence.spec import Artifact, AuditSpec
from services.influence.worker.cancellation import Cancellation
from services.influence.worker.outbox import LastMessage
from tests.job_world import CLASSES, SETTINGS, JobWorld, Result

TRAIN, TEST = 60, 45
SIDE = 32


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> JobWorld:
    return JobWorld(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module")
def rows(world: JobWorld) -> dict[str, list[dict[str, Any]]]:
    """Samples of both splits; the training ones say who labelled them, and the first is in the test set too."""
    train = [row | {"annotator": f"a{number % 3}"} for number, row in enumerate(world.samples("train", TRAIN))]
    test = world.samples("test", TEST)
    test[0] |= {"uri": train[0]["uri"], "sha256": train[0]["sha256"]}
    return {"train": train, "test": test}


@pytest.fixture(scope="module")
def spec(world: JobWorld, rows: dict[str, list[dict[str, Any]]]) -> AuditSpec:
    return AuditSpec(
        model=world.bundle(),
        train_manifest=world.manifest("train.jsonl", rows["train"]),
        test_manifest=world.manifest("test.jsonl", rows["test"]),
        group_by=("annotator",),
        proofs=1,
        skip_report=True,
    )


@pytest.fixture(scope="module")
def audited(world: JobWorld, spec: AuditSpec) -> Result:
    return world.result(world.run(world.request(spec.model_copy(update={"skip_report": False}))))


def failed(message: LastMessage) -> FailedMessage:
    assert isinstance(message, FailedMessage), message
    return message


def test_every_table_is_there_with_its_columns(audited: Result) -> None:
    assert set(audited.manifest.tables) == {*AUDIT_SCHEMAS, "ranking", "pairs", "quarantine"}
    for name, schema in AUDIT_SCHEMAS.items():
        assert pq.read_schema(io.BytesIO(audited.bytes(name))).names == schema.names
    assert len(audited.rows("issues")) == len(audited.rows("harm")) == TRAIN
    assert {row["label"] for row in audited.rows("advice")} == set(CLASSES)


def test_figures_are_those_that_are_documented_and_agree_with_the_tables(audited: Result) -> None:
    figures = audited.figures
    known = {*FIGURES, "recall_at_2", "recall_at_4", "recall_at_8", "peak_memory_bytes"}
    known |= {"feature_cache_hits", "feature_cache_misses"}
    assert {name for name in figures if not name.startswith("seconds_")} <= known
    assert figures["confusion_pairs"] == len(audited.rows("confusions"))
    assert figures["label_issues"] == sum(row["flagged"] for row in audited.rows("issues"))
    assert figures["recall_at_1"] == pytest.approx(1 - figures["confusion_share"])
    assert (figures["train_samples"], figures["test_samples"]) == (TRAIN, TEST)
    findings = audited.rows("findings")
    assert len({row["finding_id"] for row in findings}) == len(findings)
    assert {row["kind"] for row in findings} <= set(FINDING_KINDS)
    assert sum(row["kind"] == "label_issue" for row in findings) == figures["label_issues"]


def test_rankings_are_those_of_a_rank_job(audited: Result) -> None:
    classes = [row["query_id"] for row in audited.rows("confusion_classes")]
    assert list(dict.fromkeys(row["query_id"] for row in audited.rows("ranking"))) == ["all", *classes]
    assert [row["rank"] for row in audited.ranking()] == list(range(1, TRAIN + 1))
    assert {row["query_id"] for row in audited.rows("pairs")} == set(classes)
    harm = [row["sample_id"] for row in audited.rows("harm")]
    assert sorted(harm) == sorted(row["sample_id"] for row in audited.ranking())


def test_an_image_that_is_in_both_splits_is_a_leak(audited: Result) -> None:
    groups = [row["group"] for row in audited.rows("duplicates") if row["leak"]]
    leaked = {(row["split"], row["sample_id"]) for row in audited.rows("duplicates") if row["group"] in groups}
    assert {("train", "train-0000"), ("test", "test-0000")} <= leaked
    assert audited.figures["leaks"] >= 1
    assert "leak:train-0000:test-0000" in {row["finding_id"] for row in audited.rows("findings")}


def test_findings_are_rolled_up_by_the_columns_asked_for(audited: Result) -> None:
    rollups = audited.rows("rollups")
    assert {(row["column"], row["value"], row["samples"]) for row in rollups} == {
        ("annotator", f"a{number}", TRAIN // 3) for number in range(3)
    }
    assert sum(row["flagged"] for row in rollups) == audited.figures["label_issues"]


def test_the_report_is_a_file_of_the_result(audited: Result) -> None:
    page = audited.file("report.html")
    assert "data:image/jpeg;base64" in page
    assert "train-0000" in page


def test_stages_come_in_their_order(world: JobWorld, spec: AuditSpec) -> None:
    world.sent.clear()
    world.result(world.run(world.request(spec)))
    seen = list(dict.fromkeys(message.stage for message in world.progress()))
    assert seen == ["inputs", "features", *AUDIT_STAGES, "report", "results"]
    assert {message.stages_total for message in world.progress()} == {len(seen)}


def test_the_same_audit_gives_the_same_tables(world: JobWorld, spec: AuditSpec, audited: Result) -> None:
    again = world.result(world.run(world.request(spec)))
    assert again.manifest.files == {}
    for name, entry in again.manifest.tables.items():
        assert entry.sha256 == audited.manifest.tables[name].sha256, name


def test_what_people_found_right_is_not_flagged_again(world: JobWorld, spec: AuditSpec, audited: Result) -> None:
    row = audited.rows("issues")[0]
    kept = f"id,label,decision\n{row['sample_id']},{row['label']},keep\nother,x,keep\n"
    decisions = Artifact(uri=world.put("decisions.csv", kept.encode()))
    after = world.result(world.run(world.request(spec.model_copy(update={"decisions": decisions}))))
    reviewed = [each for each in after.rows("issues") if each["reviewed"]]
    assert [(each["sample_id"], each["flagged"]) for each in reviewed] == [(row["sample_id"], False)]
    assert f"label_issue:{row['sample_id']}:{row['label']}" not in {
        each["finding_id"] for each in after.rows("findings")
    }


def test_the_report_says_what_changed_since_the_previous_audit(
    world: JobWorld, spec: AuditSpec, audited: Result
) -> None:
    uri = world.place.uri(f"out/{audited.manifest.uid}/MANIFEST.json")
    named = spec.model_copy(update={"previous_audit": audited.manifest.name, "skip_report": False})
    request = world.request(named, referred=Artifact(uri=uri), name="projects/p/influenceJobs/second")
    after = world.result(world.run(request))
    page = after.file("report.html")
    assert audited.manifest.name in page
    assert f"<b>{len(audited.rows('findings'))}</b> persisting" in page


def kept_files(world: JobWorld, kind: str) -> list[Path]:
    return sorted((world.folder / "objects" / "out" / "cache" / kind).iterdir())


def test_test_labels_are_screened_once(world: JobWorld, spec: AuditSpec, audited: Result) -> None:
    (path,) = kept_files(world, "screens")
    content = path.read_bytes()
    arrays = load(content[32:])
    changed = save(arrays | {"issue_score_M": 1 - arrays["issue_score_M"]})
    path.write_bytes(hashlib.sha256(changed).digest() + changed)
    told = world.result(world.run(world.request(spec)))
    assert len(told.rows("test_issues")) == TEST - len(audited.rows("test_issues"))
    path.write_bytes(content[:-1])  # damaged: worked out again, and kept again
    again = world.result(world.run(world.request(spec)))
    assert again.manifest.tables["test_issues"].sha256 == audited.manifest.tables["test_issues"].sha256
    assert path.read_bytes() == content


def test_other_test_labels_are_screened_anew(
    world: JobWorld, spec: AuditSpec, rows: dict[str, list[dict[str, Any]]]
) -> None:
    before = len(kept_files(world, "screens"))
    other = [row | {"label": CLASSES[0]} if number == 4 else row for number, row in enumerate(rows["test"])]
    manifest = world.manifest("relabelled.jsonl", other)
    world.result(world.run(world.request(spec.model_copy(update={"test_manifest": manifest}))))
    assert len(kept_files(world, "screens")) == before + 1


def test_pictures_of_confusions_are_drawn_once(world: JobWorld, spec: AuditSpec) -> None:
    named = spec.model_copy(update={"model": with_feature_map(world), "skip_report": False})
    first = world.result(world.run(world.request(named)))
    files = {path: path.stat().st_mtime_ns for path in kept_files(world, "explanations")}
    second = world.result(world.run(world.request(named)))
    assert files == {path: path.stat().st_mtime_ns for path in kept_files(world, "explanations")} != {}
    for result in (first, second):
        page = result.file("report.html")
        assert all(base64.b64encode(path.read_bytes()[32:]).decode() in page for path in files)


def with_feature_map(world: JobWorld) -> Artifact:
    """A network whose parts can be matched."""
    torch.manual_seed(0)
    backbone = conv4(width=4, image_size=SIDE)
    head, proxies = nn.Linear(32, 6), torch.randn(len(CLASSES), 6)
    save_bundle(
        world.folder / "objects" / "with-map",
        architecture=Architecture(name="conv4", options={"width": 4, "image_size": SIDE}),
        loss=ProxyNcaSettings(),
        classes=CLASSES,
        preprocessing=Preprocessing(mode="L", resize=(SIDE, SIDE)),
        state_dict=state_dict_of(backbone=backbone, head=head, proxies=proxies),
    )
    return Artifact(uri=world.place.uri("with-map/model.json"))


def embeddings(world: JobWorld, name: str, ids: list[str], values_ND: Any) -> Artifact:
    table = pa.table({"id": ids, "embedding": [row.tolist() for row in values_ND]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return Artifact(uri=world.put(name, buffer.getvalue()))


def without_model(world: JobWorld, spec: AuditSpec, rows: dict[str, list[dict[str, Any]]], **changes: Any) -> AuditSpec:
    random = np.random.default_rng(0)
    centres = random.normal(size=(len(CLASSES), 6))
    found = {}
    for split, some in rows.items():
        means = np.stack([centres[CLASSES.index(row["label"])] for row in some])
        values = means + random.normal(0, 0.7, means.shape)
        ids = [row["id"] for row in some]
        found[f"{split}_embeddings"] = embeddings(world, f"{split}-embeddings.parquet", ids, values.astype(np.float32))
    return spec.model_copy(update={"model": None, **found, **changes})


def test_embeddings_alone_give_what_needs_no_model_and_say_what_is_missing(
    world: JobWorld, spec: AuditSpec, rows: dict[str, list[dict[str, Any]]]
) -> None:
    result = world.result(world.run(world.request(without_model(world, spec, rows))))
    assert result.rows("harm") == result.rows("proof") == result.rows("ranking") == []
    assert len(result.rows("issues")) == TRAIN
    assert "needs a model" in result.manifest.provenance["missing"]
    assert "proof_recall_gain" not in result.figures
    assert result.figures["recall_at_1"] > 0.5


BAD_EMBEDDINGS: dict[str, tuple[Any, str]] = {
    "no parquet": (b"id,embedding\n", "no Parquet file"),
    "no column": (pa.table({"id": ["a"]}), "no column embedding"),
    "no lists": (pa.table({"id": ["a"], "embedding": [1.0]}), "lists of floats"),
    "other lengths": (pa.table({"id": ["train-0000", "train-0001"], "embedding": [[1.0], [1.0, 2.0]]}), "same number"),
    "not finite": (pa.table({"id": ["train-0000"], "embedding": [[float("nan")]]}), "'train-0000' has NaN"),
    "twice": (pa.table({"id": ["train-0000"] * 2, "embedding": [[1.0]] * 2}), "two embeddings"),
}


@pytest.mark.parametrize(("content", "said"), list(BAD_EMBEDDINGS.values()), ids=list(BAD_EMBEDDINGS))
def test_embeddings_that_cannot_be_used_are_refused(
    world: JobWorld, spec: AuditSpec, rows: dict[str, list[dict[str, Any]]], content: Any, said: str
) -> None:
    if isinstance(content, pa.Table):
        buffer = io.BytesIO()
        pq.write_table(content, buffer)
        content = buffer.getvalue()
    bad = Artifact(uri=world.put("bad.parquet", content))
    message = failed(world.run(world.request(without_model(world, spec, rows, train_embeddings=bad))))
    assert message.reason == "ARGUMENT_INVALID"
    assert said in message.message
    assert "bad.parquet" in message.message


def test_samples_without_an_embedding_go_to_quarantine(
    world: JobWorld, spec: AuditSpec, rows: dict[str, list[dict[str, Any]]]
) -> None:
    values = np.random.default_rng(1).normal(size=(TRAIN - 1, 6)).astype(np.float32)
    short = embeddings(world, "short.parquet", [row["id"] for row in rows["train"][1:]], values)
    job = without_model(world, spec, rows, train_embeddings=short)
    assert failed(world.run(world.request(job))).reason == "TOO_MANY_QUARANTINED"
    job = job.model_copy(update={"run": job.run.model_copy(update={"max_quarantined_fraction": 0.1})})
    result = world.result(world.run(world.request(job)))
    assert [row["sample_id"] for row in result.rows("quarantine")] == ["train-0000"]
    assert result.figures["train_samples"] == TRAIN - 1


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "a column that the manifest does not have": ({"group_by": ("shift",)}, "ARGUMENT_INVALID", "no column 'shift'"),
    "decisions of another kind": (
        {"decisions": Artifact(uri="file:///decisions.txt")},
        "ARGUMENT_INVALID",
        ".csv or .jsonl",
    ),
}


@pytest.mark.parametrize(("change", "reason", "said"), list(REFUSED.values()), ids=list(REFUSED))
def test_what_is_refused(world: JobWorld, spec: AuditSpec, change: dict[str, Any], reason: str, said: str) -> None:
    message = failed(world.run(world.request(spec.model_copy(update=change))))
    assert message.reason == reason
    assert said in message.message


def test_decisions_that_break_their_rules_are_named_with_their_line(world: JobWorld, spec: AuditSpec) -> None:
    decisions = Artifact(uri=world.put("broken.csv", b"id,label,decision\na,b,keep\na,b,perhaps\n"))
    message = failed(world.run(world.request(spec.model_copy(update={"decisions": decisions}))))
    assert message.reason == "ARGUMENT_INVALID"
    assert message.metadata["line"] == "3"
    assert "broken.csv" in message.message


def test_an_audit_that_does_not_fit_is_refused_with_an_estimate(world: JobWorld, spec: AuditSpec) -> None:
    settings = SETTINGS.model_copy(update={"memory_budget_bytes": 1 << 20})
    message = failed(world.run(world.request(spec), settings=settings))
    assert message.reason == "MEMORY_EXCEEDED"
    assert "an audit of 60 training and 45 test samples" in message.message


def test_a_cancelled_audit_leaves_no_result(world: JobWorld, spec: AuditSpec) -> None:
    cancellation = Cancellation()
    cancellation.request()
    request = world.request(spec)
    assert type(world.run(request, cancellation=cancellation)).__name__ == "CancelledMessage"
    assert not list((world.folder / "objects" / "out" / request.uid).glob("MANIFEST.json"))


def test_pictures_that_cannot_be_read_any_more_leave_a_report_without_them(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "w")
    train, test = world.samples("train", 30), world.samples("test", 24)
    spec = AuditSpec(
        model=world.bundle(),
        train_manifest=world.manifest("train.jsonl", train),
        test_manifest=world.manifest("test.jsonl", test),
        proofs=0,
    )
    world.result(world.run(world.request(spec)))
    for row in test:  # their features are known, their images are gone
        Path(row["uri"].removeprefix("file://")).unlink()
    result = world.result(world.run(world.request(spec)))
    assert result.figures["feature_cache_misses"] == 0
    assert result.manifest.files["report.html"].bytes > 10_000

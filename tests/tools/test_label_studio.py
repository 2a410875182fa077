"""Findings of a real audit in a real Label Studio, answered there, and taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.common.decisions import read_decisions
from tests.tools.conftest import Audited
from tests.tools.label_studio import LabelStudio, running_label_studio

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def studio(
    label_studio_python: Path, audited: Audited, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LabelStudio]:
    with running_label_studio(label_studio_python, tmp_path_factory.mktemp("studio"), files=audited.folder) as running:
        yield running


def answer(name: str, value: str) -> dict[str, Any]:
    """One control of the form, as a browser submits it."""
    kind, key = ("textarea", "text") if name == "note" else ("choices", "choices")
    return {"from_name": name, "to_name": "image", "type": kind, "value": {key: [value]}}


def test_review_in_label_studio(audited: Audited, studio: LabelStudio) -> None:
    audited.eif(
        "export tuesday --format label-studio --manifest train.jsonl --everything -o tasks.json "
        f"--label-config labels.xml --image file://{audited.folder}/=/data/local-files/?d="
    )
    written = json.loads((audited.folder / "tasks.json").read_text())
    project = studio.new_project((audited.folder / "labels.xml").read_text())
    counts = studio.import_tasks(project, (audited.folder / "tasks.json").read_bytes())
    predictions = sum(len(task["predictions"]) for task in written)
    assert (counts["task_count"], counts["prediction_count"]) == (30, predictions)

    tasks = studio.tasks(project)
    assert [task["data"] for task in tasks] == [task["data"] for task in written]
    for task, made in zip(tasks, written, strict=True):
        said = {one["model_version"]: (one["score"], one["result"][0]["value"]) for one in task["predictions"]}
        assert said == {one["model_version"]: (one["score"], one["result"][0]["value"]) for one in made["predictions"]}
    studio.share_folder(project, audited.folder / "train")
    assert studio.get(tasks[0]["data"]["image"])[:4] == b"\x89PNG"

    suggested, kept, removed, skipped, typed = tasks[:5]
    studio.annotate(suggested["id"], suggested["predictions"][0]["result"])
    studio.annotate(kept["id"], [answer("label", kept["data"]["current_label"])])
    studio.annotate(removed["id"], [answer("decision", "remove"), answer("note", "too dark\nto tell")])
    studio.annotate(skipped["id"], [], skipped=True)
    studio.annotate(typed["id"], [answer("label", kept["data"]["current_label"])])
    studio.annotate(typed["id"], [answer("label", typed["data"]["suggested_label"])])
    (audited.folder / "answers.json").write_bytes(studio.export(project))

    said = json.loads(audited.eif("apply train.jsonl --decisions answers.json -o label-studio.jsonl --json").out)
    assert (said["relabelled"], said["kept"], said["removed"]) == (2, 1, 1)
    labels = {row["id"]: row["label"] for row in rows(audited.folder / "label-studio.jsonl")}
    before = {row["id"]: row["label"] for row in rows(audited.folder / "train.jsonl")}
    changed = {task["data"]["sample_id"]: task["data"]["suggested_label"] for task in (suggested, typed)}
    assert labels == {one: label for one, label in (before | changed).items() if one != sample_of(removed)}
    reviewed = {one.sample_id for one in read_decisions(audited.folder / "reviewed.csv")}
    assert reviewed == {sample_of(suggested), sample_of(kept), sample_of(typed)}


def rows(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def sample_of(task: dict[str, Any]) -> str:
    return str(task["data"]["sample_id"])

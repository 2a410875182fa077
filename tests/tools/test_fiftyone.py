"""Findings of a real audit in a real FiftyOne, decided about there, and taken back."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.tools.conftest import Audited

PROGRAM = Path(__file__).with_name("fiftyone_program.py")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_review_in_fiftyone(audited: Audited, fiftyone_python: Path, tmp_path: Path) -> None:
    audited.eif(
        "export tuesday --format fiftyone --manifest train.jsonl --everything -o review "
        f"--image file://{audited.folder}/={audited.folder}/"
    )
    written = json.loads((audited.folder / "review" / "samples.json").read_text())["samples"]
    found = json.loads(run(fiftyone_python, audited.folder / "review", tmp_path / "answers", home=tmp_path))
    assert found["media_type"] == "image"
    assert found["fields"]["ground_truth"] == found["fields"]["suggestion"] == "EmbeddedDocumentField"
    assert found["info"]["made_by"] == "eif export"
    assert [sample["id"] for sample in found["samples"]] == [sample["eif_id"] for sample in written]
    for sample, made in zip(found["samples"], written, strict=True):
        assert (sample["path"], sample["severity"], sample["width"]) == (made["filepath"], made["severity"], 6)
        assert sample["label"] == made["ground_truth"]["label"]
        assert sample["confidence"] == made["ground_truth"]["confidence"]
        assert sample["suggestion"] == made["suggestion"]["label"]

    new = audited.folder / "fiftyone.jsonl"
    answers = tmp_path / "answers"
    said = json.loads(audited.eif(f"apply train.jsonl --decisions {answers} -o {new.name} --json").out)
    assert (said["relabelled"], said["kept"], said["removed"]) == (2, 1, 1)
    labels = {row["id"]: row["label"] for row in map(json.loads, new.read_text().splitlines())}
    first, second, third, fourth = written[:4]
    assert labels[first["eif_id"]] == first["suggestion"]["label"]
    assert labels[second["eif_id"]] == second["ground_truth"]["label"]
    assert third["eif_id"] not in labels
    assert labels[fourth["eif_id"]] == "by hand"


def run(python: Path, review: Path, answers: Path, *, home: Path) -> str:
    """The last line that the program prints; its database lies under `home`."""
    variables = {
        "HOME": str(home),
        "FIFTYONE_DATABASE_DIR": str(home / "database"),
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
    }
    ended = subprocess.run(
        [str(python), str(PROGRAM), str(review), str(answers)],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        cwd=home,
        env={**os.environ, **variables},
    )
    assert ended.returncode == 0, (ended.stdout[-2000:], ended.stderr[-4000:])
    return ended.stdout.splitlines()[-1]

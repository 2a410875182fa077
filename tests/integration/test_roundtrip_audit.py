"""The whole loop on real services: audit, gate, look, decide, correct, audit again, and only what is new counts."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.decisions import read_decisions
from tests.cli import Ended, run_eif
from tests.system import System, make_files, running_system

POLICY = """
version: 1
rules:
  - {name: new-issues, findings: label_issue, max_new: 0}
  - {name: samples, figure: train_samples, max_drop: 1}
"""


WRONG = {0: "bee", 7: "cat", 14: "ant", 21: "bee", 28: "cat"}
"""Rows that get a label that is not theirs."""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("system")
    files = make_files(folder)
    manifest = files / "train.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert all(rows[row]["label"] != label for row, label in WRONG.items())
    rows = [row | {"label": WRONG.get(number, row["label"])} for number, row in enumerate(rows)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with running_system(folder, which="influence", files=files) as running:
        yield running


def eif(system: System, line: str, *, exit_code: int = 0) -> Ended:
    ended = run_eif(*shlex.split(line), variables=system.variables, cwd=system.files)
    assert ended.exit_code == exit_code, ended
    return ended


def fill_in(path: Path, words: dict[str, str]) -> None:
    """Write what was decided into an exported list."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "decision": words.get(row["id"], "keep")} for row in rows)


def test_audit_decide_correct_audit(system: System) -> None:
    audit = "audit --model model --test test.jsonl --proofs 0 --no-report --wait"
    eif(system, f"{audit} --train train.jsonl --id first")
    (system.files / "policy.yaml").write_text(POLICY)
    verdict = json.loads(eif(system, "gate first --policy policy.yaml --json -").out)
    assert [rule["not_applicable"] for rule in verdict["rules"]] == [True, True]

    eif(system, "export first --format csv --manifest train.jsonl --kind label_issue -o review.csv")
    with (system.files / "review.csv").open(newline="") as file:
        flagged = [row["id"] for row in csv.DictReader(file)]
    assert len(flagged) == verdict["figures"]["label_issues"] >= 3
    fill_in(system.files / "review.csv", {flagged[0]: "relabel", flagged[1]: "remove"})
    said = json.loads(eif(system, "apply train.jsonl --decisions review.csv -o second.jsonl --json").out)
    assert (said["relabelled"], said["removed"], said["kept"]) == (1, 1, len(flagged) - 2)
    remembered = read_decisions(system.files / "reviewed.csv")
    assert len(remembered) == len(flagged) - 1

    eif(system, f"{audit} --train second.jsonl --id second --decisions reviewed.csv")
    found = [json.loads(line) for line in eif(system, "table second issues --limit 0 --format jsonl").out.splitlines()]
    reviewed = {row["sample_id"] for row in found if row["reviewed"]}
    assert reviewed == {one.sample_id for one in remembered}
    assert not [row for row in found if row["reviewed"] and row["flagged"]]

    changes = eif(system, "diff second first --kind label_issue --limit 0 --format jsonl").out.splitlines()
    by_change = [json.loads(line)["change"] for line in changes]
    assert by_change.count("fixed") == len(flagged)
    new = sum(row["flagged"] for row in found if row["sample_id"] not in flagged)
    assert by_change.count("new") == new
    gate = eif(system, "gate second --baseline first --policy policy.yaml --json -", exit_code=7 if new else 0)
    assert [rule["value"] for rule in json.loads(gate.out)["rules"]] == [new, 29]

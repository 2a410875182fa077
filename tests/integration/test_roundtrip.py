"""From an audit on a server to a corrected manifest, as people do it: `eif export`, an answer, `eif apply`."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pyarrow.parquet as pq
import pytest

from services.common.decisions import DecisionKind, read_decisions
from tests.audit_results import finding, put_audit
from tests.cli import Cli, Ended, run_eif
from tests.influence_app import Influence

Run = Callable[..., Awaitable[Ended]]
LABELS = {f"s{number}": "abc"[number % 3] for number in range(12)}
LINES = "id,uri,label,who\r\n" + "".join(
    f'{one},s3://b/{one}.png,{label},"ann, 1"\r\n' for one, label in LABELS.items()
)
WRONG = {"s1": "c", "s4": "a", "s6": "b"}
"""Samples with a label issue, and the label they should have."""


def issue(rank: int, sample_id: str) -> dict[str, Any]:
    wrong = sample_id in WRONG
    return {
        "rank": rank,
        "sample_id": sample_id,
        "label": LABELS[sample_id],
        "issue_probability": 0.9 if wrong else 0.05,
        "flagged": wrong,
        "reviewed": False,
        "suggested_label": WRONG.get(sample_id, LABELS[sample_id]),
        "suggested_probability": 0.8,
        "alternative_label": "b" if LABELS[sample_id] != "b" else "a",
        "alternative_probability": 0.1,
        "neighbor_ids": ["s0"],
        "neighbor_labels": ["a"],
        "part_names": ["knn"],
        "part_scores": [0.5],
    }


@pytest.fixture
async def audit(influence: Influence) -> str:
    findings = [
        finding("label_issue", one, label=LABELS[one], other_label=new, severity=0.9) for one, new in WRONG.items()
    ]
    findings.append(finding("outlier", "s7", finding_id="outlier:train:s7", severity=0.3))
    tables = {"issues": [issue(rank, one) for rank, one in enumerate(LABELS, 1)], "test_issues": []}
    return await put_audit(influence, "tuesday", findings, tables=tables)


@pytest.fixture
def run(influence: Influence, audit: str, capsys: pytest.CaptureFixture[str]) -> Run:
    """`eif` against the service of this test, which has the audit `tuesday`; it runs beside the event loop."""
    assert audit.endswith("tuesday")
    cli = Cli(capsys)

    async def run_eif_here(*arguments: object) -> Ended:
        where = () if arguments[0] == "apply" else ("--target", influence.address, "--project", "p")
        return await asyncio.to_thread(cli, *map(str, arguments), *where)

    return run_eif_here


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "train.csv"
    path.write_bytes(LINES.encode())
    return path


async def test_by_a_list(run: Run, manifest: Path, tmp_path: Path) -> None:
    review, new = tmp_path / "review.csv", tmp_path / "train-2.csv"
    ended = await run("export", "tuesday", "--format", "csv", "--manifest", manifest, "-o", review)
    assert (ended.exit_code, ended.err) == (0, "4 samples\n")
    with review.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["s1", "s4", "s6", "s7"]
    assert [row["new_label"] for row in rows[:3]] == list(WRONG.values())
    text = review.read_text().replace("s1,b,,c", "s1,b,relabel,c").replace("s4,b,,a", "s4,b,keep,a")
    review.write_text(text.replace("s7,b,,", "s7,b,remove,"))

    ended = await run("apply", manifest, "--decisions", review, "-o", new)
    assert ended.exit_code == 0, ended.err
    assert ended.out == f"{hashlib.sha256(new.read_bytes()).hexdigest()}  {new}\n"
    assert "12 samples: 1 relabelled, 1 removed, 1 kept" in ended.err
    before = LINES.encode().splitlines(keepends=True)
    wanted = [line.replace(b",b,", b",c,") if line.startswith(b"s1,") else line for line in before]
    assert new.read_bytes() == b"".join(line for line in wanted if not line.startswith(b"s7,"))
    remembered = read_decisions(tmp_path / "reviewed.csv")
    assert [(one.sample_id, one.label, one.kind) for one in remembered] == [
        ("s1", "c", DecisionKind.KEEP),
        ("s4", "b", DecisionKind.KEEP),
    ]
    provenance = json.loads((tmp_path / "train-2.csv.provenance.json").read_text())
    assert provenance["decisions"] == [
        {"name": "review.csv", "sha256": hashlib.sha256(review.read_bytes()).hexdigest()}
    ]

    ended = await run("apply", new, "--decisions", review, "-o", tmp_path / "train-3.csv")
    assert ended.exit_code == 1
    assert "does not have 1 of the samples" in ended.err
    ended = await run("export", "tuesday", "--format", "csv", "--manifest", new, "-o", tmp_path / "again.csv")
    assert ended.err.startswith("2 samples; 1 with findings are not in the manifest; 1 have another label there than")


async def test_by_label_studio(run: Run, manifest: Path, tmp_path: Path) -> None:
    tasks, config, new = tmp_path / "tasks.json", tmp_path / "labels.xml", tmp_path / "new.csv"
    options = ("--label-config", config, "--kind", "label_issue", "--image", "s3://b/=https://images/")
    ended = await run("export", "tuesday", "--format", "label-studio", "--manifest", manifest, "-o", tasks, *options)
    assert ended.exit_code == 0, ended.err
    made = json.loads(tasks.read_text())
    assert [task["data"]["image"] for task in made] == [f"https://images/{one}.png" for one in WRONG]
    assert [task["predictions"][0]["score"] for task in made] == [0.8] * 3
    choices = ET.parse(config).findall("./Choices[@name='label']/Choice")  # noqa: S314  our own
    assert [choice.get("value") for choice in choices] == ["a", "b", "c"]

    for number, task in enumerate(made[:2]):  # the first is relabelled as suggested, the second is right
        chosen = task["predictions"][number]["result"]
        task["annotations"] = [
            {"id": 1, "result": chosen, "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z"}
        ]
    made[2]["annotations"] = []
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(made))
    reviewed = tmp_path / "kept" / "reviewed.csv"
    reviewed.parent.mkdir()
    ended = await run("apply", manifest, "--decisions", answers, "-o", new, "--reviewed", reviewed, "--json")
    assert ended.exit_code == 0, ended.err
    said = json.loads(ended.out)
    assert (said["relabelled"], said["kept"], said["removed"]) == (1, 1, 0)
    assert b"s1,s3://b/s1.png,c," in new.read_bytes()
    assert [one.sample_id for one in read_decisions(reviewed)] == ["s1", "s4"]


async def test_for_fiftyone_and_as_parquet(run: Run, manifest: Path, tmp_path: Path) -> None:
    folder, table = tmp_path / "review", tmp_path / "review.parquet"
    options = ("--manifest", manifest, "--everything")
    assert (await run("export", "tuesday", "--format", "fiftyone", *options, "-o", folder)).exit_code == 0
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    assert [sample["tags"] for sample in samples[:4]] == [["label_issue"]] * 3 + [["outlier"]]
    assert len(samples) == 12
    assert (await run("export", "tuesday", "--format", "parquet", *options, "-o", table, "--limit", "5")).exit_code == 0
    assert pq.read_table(table)["id"].to_pylist() == ["s1", "s4", "s6", "s7", "s0"]


def csv_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.csv*"))


async def test_what_is_refused(run: Run, manifest: Path, tmp_path: Path) -> None:
    export = ("export", "tuesday", "--format", "csv", "--manifest")
    taken = tmp_path / "taken.csv"
    taken.write_text("mine")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((*export, manifest, "-o", taken), "is there already"),
        ((*export, "s3://b/train.csv", "-o", tmp_path / "x"), "copy it here first"),
        ((*export, tmp_path / "none.csv", "-o", tmp_path / "x"), "No such file"),
        ((*export, manifest, "-o", tmp_path / "x", "--kind", "confusion"), "findings about train samples are of kind"),
        ((*export, manifest, "-o", tmp_path / "x", "--image", "nothing"), "is not START=BY"),
        (("apply", "s3://b/train.csv", "--decisions", taken, "-o", tmp_path / "x.csv"), "copy it here first"),
        (("apply", manifest, "--decisions", taken, "-o", tmp_path / "x.csv"), "has no column id"),
        (("apply", manifest, "--decisions", tmp_path / "none.csv", "-o", tmp_path / "x.csv"), "No such file"),
        (("apply", manifest, "--decisions", manifest, "-o", tmp_path / "x.csv"), "has no column decision"),
    ]
    for arguments, said in cases:
        ended = await run(*arguments)
        assert (ended.exit_code, said in ended.err) == (1, True), (arguments, ended)
    assert taken.read_text() == "mine"
    assert csv_files(tmp_path) == ["taken.csv", "train.csv"]
    ended = await run(*export, manifest, "-o", taken, "--force")
    assert (ended.exit_code, taken.read_text()[:3]) == (0, "id,")


async def test_a_memory_that_is_none_stops_everything(run: Run, manifest: Path, tmp_path: Path) -> None:
    decisions, memory, new = tmp_path / "d.csv", tmp_path / "m.csv", tmp_path / "new.csv"
    decisions.write_text("id,label,decision\ns0,a,keep\n")
    memory.write_text("something else\n")
    ended = await run("apply", manifest, "--decisions", decisions, "-o", new, "--reviewed", memory)
    assert (ended.exit_code, "m.csv has no column id" in ended.err, new.exists()) == (1, True, False)


def test_a_process_of_its_own_needs_neither_server_nor_pyarrow(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("id,label,decision,new_label\ns0,a,relabel,z\n")
    hidden = tmp_path / "hidden" / "pyarrow"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError('no pyarrow here', name='pyarrow')\n")
    variables = {"PYTHONPATH": f"{hidden.parent}:{Path(__file__).resolve().parents[2]}", "EIF_TARGET": "127.0.0.1:1"}
    ended = run_eif("apply", str(manifest), "--decisions", "d.csv", "-o", "new.csv", variables=variables, cwd=tmp_path)
    assert ended.exit_code == 0, ended.err
    assert b"s0,s3://b/s0.png,z," in (tmp_path / "new.csv").read_bytes()
    (tmp_path / "m.parquet").write_bytes(b"PAR1")
    ended = run_eif("apply", "m.parquet", "--decisions", "d.csv", "-o", "n.parquet", variables=variables, cwd=tmp_path)
    assert ended.exit_code == 1
    assert "pip install 'eif-service[tables]'" in ended.err

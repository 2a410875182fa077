"""`eif gate` and `eif diff`, and the client's methods, against a real server."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from services.client.gate import Change, Verdict
from services.client.influence import InfluenceClient
from services.influence.gate.policy_file import default_policy
from tests.audit_results import finding, put_audit
from tests.cli import Cli, Ended
from tests.influence_app import SUCCEED, Influence

Run = Callable[..., Awaitable[Ended]]
POLICY = """
version: 1
rules:
  - {name: drop, figure: recall_at_1, max_drop: 0.05, because: we promised}
  - {name: new-leaks, findings: leak, max_new: 0, level: warn}
"""


@pytest.fixture
def run(influence: Influence, capsys: pytest.CaptureFixture[str]) -> Run:
    """`eif` against the service of this test; the command runs beside its event loop."""
    cli = Cli(capsys)

    async def run_eif(*arguments: str) -> Ended:
        return await asyncio.to_thread(cli, *arguments, "--target", influence.address, "--project", "p")

    return run_eif


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY)
    return str(path)


@pytest.fixture
async def audits(influence: Influence) -> tuple[str, str, str]:
    """Ids of a good audit, of one with new leaks, and of one that is also worse."""
    leaks = [finding("leak", f"t{number}", "u", severity=number / 40) for number in range(30)]
    await put_audit(influence, "good", [finding("confusion", "c")], figures={"recall_at_1": 0.9})
    await put_audit(influence, "leaky", leaks, figures={"recall_at_1": 0.9})
    await put_audit(influence, "bad", leaks, figures={"recall_at_1": 0.5})
    return "good", "leaky", "bad"


class TestGate:
    async def test_the_exit_code_is_the_answer(self, run: Run, audits: tuple[str, str, str], policy: str) -> None:
        good, leaky, bad = audits
        arguments = ("--policy", policy, "--baseline", good)
        codes = {
            (job, strict): (await run("gate", job, *arguments, *(["--strict"] if strict else []))).exit_code
            for job in audits
            for strict in (False, True)
        }
        assert codes == {
            (good, False): 0,
            (good, True): 0,
            (leaky, False): 0,
            (leaky, True): 7,
            (bad, False): 7,
            (bad, True): 7,
        }

    async def test_it_says_why(self, run: Run, audits: tuple[str, str, str], policy: str) -> None:
        ended = await run("gate", audits[2], "--policy", policy, "--baseline", audits[0])
        lines = ended.out.splitlines()
        assert lines[0].split() == ["verdict", "rule", "value", "baseline", "limit", "message"]
        assert lines[1].split()[:5] == ["FAIL", "drop", "0.5", "0.9", "0.85"]
        assert lines[1].endswith("(we promised)")
        assert lines[2].split()[:3] == ["WARN", "new-leaks", "30"]
        assert sum(line.lstrip().startswith("0.") for line in lines) == 20
        assert "and more: eif diff" in ended.out
        assert lines[-1] == "FAIL: 2 of 2 rules broken"

    async def test_every_form_says_the_same(
        self, run: Run, audits: tuple[str, str, str], policy: str, tmp_path: Path
    ) -> None:
        files = {form: tmp_path / f"gate.{form}" for form in ("json", "junit", "markdown")}
        outputs = [word for form, path in files.items() for word in (f"--{form}", str(path))]
        ended = await run("gate", audits[2], "--policy", policy, "--baseline", audits[0], *outputs)
        assert ended.exit_code == 7
        said = json.loads(files["json"].read_text())
        assert (said["verdict"], said["baseline"]) == ("FAIL", "projects/p/influenceJobs/good")
        assert [rule["verdict"] for rule in said["rules"]] == ["FAIL", "WARN"]
        assert said["changes"][1] == {"kind": "leak", "new": 30, "fixed": 0, "persisting": 0}
        assert len(said["new_findings"]) == 30
        suites = ET.fromstring(files["junit"].read_bytes())  # noqa: S314  our own
        assert (suites.get("tests"), suites.get("failures")) == ("2", "1")
        assert "| **WARN** | new\\-leaks | 30 |" in files["markdown"].read_text()

    async def test_one_form_can_go_to_standard_output(self, run: Run, audits: tuple[str, str, str]) -> None:
        ended = await run("gate", audits[2], "--baseline", audits[0], "--json", "-")
        assert json.loads(ended.out)["verdict"] == "FAIL"
        assert ended.err.startswith("FAIL: ")
        ended = await run("gate", audits[2], "--json", "-", "--junit", "-")
        assert ended.exit_code == 2

    async def test_what_is_no_verdict_has_another_code(
        self, run: Run, audits: tuple[str, str, str], influence: Influence, tmp_path: Path
    ) -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text("version: 1\nrules:\n  - {name: a, figure: recall_at_one, min: 1}\n")
        ended = await run("gate", audits[0], "--policy", str(bad))
        assert (ended.exit_code, "line 3, rule a, figure" in ended.err) == (1, True)
        assert "; `eif gate --show-policy` prints" in ended.err
        assert (await run("gate", audits[0], "--policy", str(tmp_path / "none.yaml"))).exit_code == 1
        assert (await run("gate", "missing")).exit_code == 4
        assert (await run("gate", audits[0], "--baseline", "missing")).exit_code == 4
        rank_job = (await influence.run(SUCCEED)).name
        ended = await run("gate", rank_job)
        assert (ended.exit_code, "only audits have a verdict" in ended.err) == (1, True)

    @pytest.mark.parametrize(
        ("data", "said"), [(b" \n", "is empty"), (b"\xff", "not UTF-8 at byte 1"), (b"#" * 65_537, "at most 64 KiB")]
    )
    async def test_files_that_are_no_policy(self, run: Run, tmp_path: Path, data: bytes, said: str) -> None:
        path = tmp_path / "policy.yaml"
        path.write_bytes(data)
        ended = await run("gate", "any", "--policy", str(path))
        assert (ended.exit_code, said in ended.err) == (1, True)


def test_the_default_policy_can_be_seen_without_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert Cli(capsys)("gate", "--show-policy") == Ended(exit_code=0, out=default_policy(), err="")


class TestDiff:
    async def test_new_and_fixed(self, run: Run, audits: tuple[str, str, str]) -> None:
        ended = await run("diff", audits[1], audits[0], "--limit", "0", "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(ended.out)))
        assert [row["change"] for row in rows] == ["new"] * 30 + ["fixed"]
        assert rows[-1]["finding_id"] == "confusion:c"
        assert ended.err.splitlines() == [
            "confusion: 0 new, 1 fixed, 0 persisting",
            "leak: 30 new, 0 fixed, 0 persisting",
        ]
        assert ended.exit_code == 0

    async def test_only_some(self, run: Run, audits: tuple[str, str, str]) -> None:
        _, leaky, bad = audits
        options = ("--change", "persisting", "--kind", "leak", "--format", "jsonl", "--limit", "7")
        ended = await run("diff", bad, leaky, *options)
        rows = [json.loads(line) for line in ended.out.splitlines()]
        assert {(row["change"], row["kind"]) for row in rows} == {("persisting", "leak")}
        assert len(rows) == 7
        ended = await run("diff", bad, leaky)
        assert (ended.out, ended.err.splitlines()[-1]) == ("", "no such findings")

    async def test_kinds_that_there_are_not(self, run: Run, audits: tuple[str, str, str]) -> None:
        ended = await run("diff", audits[0], audits[1], "--kind", "leek")
        assert (ended.exit_code, "known are confusion" in ended.err) == (1, True)


class TestClient:
    async def test_verdicts_and_differences(self, influence: Influence, audits: tuple[str, str, str]) -> None:
        def ask() -> None:
            with InfluenceClient(influence.address, project="p") as client:
                verdict = client.evaluate_audit("bad", baseline="good", policy=POLICY)
                assert verdict.verdict is Verdict.FAIL
                assert [rule.limit for rule in verdict.rules] == [0.85, 0.0]
                found = client.compare_audits("bad", client.get_job("good"), page_size=7)
                assert [count.new for count in found.counts] == [0, 30]
                changes = list(found.changes)
                assert [change.change for change in changes] == [Change.NEW] * 30 + [Change.FIXED]
                assert len({change.finding_id for change in changes}) == 31

        assert audits
        await asyncio.to_thread(ask)

"""EvaluateAudit and CompareAudits over a real server, on tables in a real store."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from eif.influence.v1 import audit_pb2
from eif.influence.v1 import influence_service_pb2 as service_pb2

from services.influence.gate.policy_file import MAX_BYTES, default_policy, read_policy
from services.influence.job import JobState
from tests.audit_results import finding, put_audit, put_job
from tests.influence_app import SUCCEED, Influence, refusal

NEW = audit_pb2.FindingChange.CHANGE_NEW
FIXED = audit_pb2.FindingChange.CHANGE_FIXED
PERSISTING = audit_pb2.FindingChange.CHANGE_PERSISTING
PASS, WARN, FAIL = audit_pb2.VERDICT_PASS, audit_pb2.VERDICT_WARN, audit_pb2.VERDICT_FAIL

BEFORE = [
    finding("confusion", "t1", severity=0.2),
    finding("confusion", "t2"),
    finding("leak", "a", "b"),
    finding("label_issue", "s1"),
]
AFTER = [
    finding("leak", "c", "d", severity=0.7),
    finding("leak", "e", "f", severity=1.0),
    finding("confusion", "t1", severity=0.8, summary="worse than it was"),
    finding("label_issue", "s1"),
    finding("outlier", "o"),
]
FIGURES = {"recall_at_1": 0.8, "recall_at_16": 0.9, "leaks": 2.0, "seconds_audit": 12.0}


def policy(*lines: str) -> str:
    return "version: 1\nrules:\n" + "\n".join(f"  - {{{line}}}" for line in lines)


async def evaluate(influence: Influence, name: str, **fields: Any) -> audit_pb2.AuditVerdict:
    return await influence.stub.EvaluateAudit(service_pb2.EvaluateAuditRequest(name=name, **fields))


async def compare(influence: Influence, name: str, baseline: str, **fields: Any) -> service_pb2.CompareAuditsResponse:
    request = service_pb2.CompareAuditsRequest(name=name, baseline=baseline, **fields)
    return await influence.stub.CompareAudits(request)


def ids(changes: Sequence[audit_pb2.FindingChange]) -> list[tuple[int, str]]:
    return [(change.change, change.finding_id) for change in changes]


@pytest.fixture
async def after(influence: Influence) -> str:
    return await put_audit(influence, "after", AFTER, figures=FIGURES)


@pytest.fixture
async def before(influence: Influence) -> str:
    return await put_audit(influence, "before", BEFORE, figures={"recall_at_1": 0.9, "leaks": 1.0})


class TestVerdict:
    async def test_rules_over_figures_and_findings(self, influence: Influence, after: str, before: str) -> None:
        text = policy(
            "name: floor, figure: recall_at_1, min: 0.75",
            "name: drop, figure: recall_at_1, max_drop: 5%, level: warn, because: we promised",
            "name: deep, figure: recall_at_16, max_drop: 0.1",
            "name: new-leaks, findings: leak, max_new: 1",
            "name: grave-leaks, findings: leak, max_new: 1, min_severity: 0.8",
            "name: issues, findings: label_issue, max_count: 0, level: warn",
        )
        got = await evaluate(influence, after, baseline=before, policy=text)
        assert got.verdict == FAIL
        assert [(rule.rule, rule.verdict) for rule in got.rules] == [
            ("floor", PASS),
            ("drop", WARN),
            ("deep", PASS),
            ("new-leaks", FAIL),
            ("grave-leaks", PASS),
            ("issues", WARN),
        ]
        drop, deep = got.rules[1:3]
        assert (drop.value, drop.baseline_value, drop.limit, drop.subject) == (0.8, 0.9, 0.855, "recall_at_1")
        assert "we promised" in drop.message
        assert (deep.not_applicable, deep.value, deep.HasField("baseline_value")) == (True, 0.9, False)
        assert (got.audit, got.baseline) == (after, before)
        assert (got.policy_version, got.policy_sha256) == (1, read_policy(text).sha256)
        assert dict(got.figures) == {"recall_at_1": 0.8, "recall_at_16": 0.9, "leaks": 2.0}
        assert dict(got.baseline_figures) == {"recall_at_1": 0.9, "leaks": 1.0}

    async def test_what_is_new_is_counted_and_the_worst_shown(
        self, influence: Influence, after: str, before: str
    ) -> None:
        text = policy("name: leaks, findings: leak, max_new: 1", "name: outliers, findings: outlier, max_new: 1")
        got = await evaluate(influence, after, baseline=before, policy=text)
        counts = [(c.kind, c.new_findings, c.fixed_findings, c.persisting_findings) for c in got.changes]
        assert counts == [("confusion", 0, 1, 1), ("label_issue", 0, 0, 1), ("leak", 2, 1, 0), ("outlier", 1, 0, 0)]
        assert ids(got.new_findings) == [(NEW, "leak:e:f"), (NEW, "leak:c:d")]
        assert (got.new_findings[0].severity, got.new_findings[0].other_id) == (1.0, "f")

    async def test_at_most_a_hundred_findings_are_shown(self, influence: Influence, before: str) -> None:
        many = [finding("leak", f"x{number:03}", severity=number / 150) for number in range(150)]
        name = await put_audit(influence, "many", many)
        text = policy("name: a, findings: leak, max_new: 0, min_severity: 0.5", "name: b, findings: leak, max_new: 9")
        got = await evaluate(influence, name, baseline=before, policy=text)
        assert [change.finding_id for change in got.new_findings] == [f"leak:x{n:03}" for n in range(149, 49, -1)]

    async def test_without_a_baseline_changes_do_not_count(self, influence: Influence, after: str) -> None:
        text = policy("name: a, findings: leak, max_new: 0", "name: b, findings: leak, max_count: 2")
        got = await evaluate(influence, after, policy=text)
        assert (got.verdict, [rule.not_applicable for rule in got.rules]) == (PASS, [True, False])
        assert (list(got.changes), list(got.new_findings), got.baseline) == ([], [], "")
        got = await evaluate(influence, after, policy=policy("name: a, findings: leak, max_new: 0, required: true"))
        assert got.verdict == FAIL

    async def test_the_default_policy_stops_a_worse_model(self, influence: Influence, after: str, before: str) -> None:
        got = await evaluate(influence, after, baseline=before)
        assert got.policy_sha256 == read_policy(default_policy()).sha256
        broken = {rule.rule: rule.verdict for rule in got.rules if rule.verdict != PASS}
        assert broken == {"recall-drop": FAIL, "new-leaks": FAIL}
        assert (await evaluate(influence, before, baseline=before)).verdict == PASS


class TestChanges:
    async def test_new_and_fixed_by_default(self, influence: Influence, after: str, before: str) -> None:
        got = await compare(influence, after, before)
        assert ids(got.changes) == [
            (NEW, "leak:c:d"),
            (NEW, "leak:e:f"),
            (NEW, "outlier:o"),
            (FIXED, "confusion:t2"),
            (FIXED, "leak:a:b"),
        ]
        assert [count.kind for count in got.counts] == ["confusion", "label_issue", "leak", "outlier"]
        assert got.next_page_token == ""

    async def test_persisting_ones_are_as_they_are_now(self, influence: Influence, after: str, before: str) -> None:
        got = await compare(influence, after, before, changes=[PERSISTING], kinds=["confusion"])
        (change,) = got.changes
        assert change == audit_pb2.FindingChange(
            change=PERSISTING,
            finding_id="confusion:t1",
            kind="confusion",
            sample_id="t1",
            label="cat",
            other_label="dog",
            severity=0.8,
            summary="worse than it was",
        )

    async def test_pages_add_up(self, influence: Influence, after: str, before: str) -> None:
        whole = await compare(influence, after, before, changes=[NEW, FIXED, PERSISTING])
        assert len(whole.changes) == 7
        changes: list[audit_pb2.FindingChange] = []
        token = ""
        while True:
            page = await compare(
                influence, after, before, changes=[PERSISTING, FIXED, NEW], page_size=2, page_token=token
            )
            assert (len(page.changes) <= 2, list(page.counts) == list(whole.counts)) == (True, True)
            changes += page.changes
            token = page.next_page_token
            if not token:
                break
        assert changes == list(whole.changes)

    async def test_a_page_is_no_larger_than_a_message_may_be(self, influence: Influence, before: str) -> None:
        large = [finding("leak", f"x{number}", summary="y" * 1_000_000) for number in range(8)]
        name = await put_audit(influence, "large", large)
        found, token = 0, ""
        while True:
            page = await compare(influence, name, before, changes=[NEW], page_token=token)
            assert 1 <= len(page.changes) <= 3
            found += len(page.changes)
            token = page.next_page_token
            if not token:
                break
        assert found == 8

    async def test_audits_that_found_nothing(self, influence: Influence, before: str) -> None:
        nothing = await put_audit(influence, "nothing")
        got = await compare(influence, nothing, before)
        assert [change.change for change in got.changes] == [FIXED] * 4
        assert list((await compare(influence, nothing, nothing, changes=[PERSISTING])).counts) == []


async def test_many_at_a_time(influence: Influence, after: str, before: str) -> None:
    text = policy("name: leaks, findings: leak, max_new: 1", "name: outliers, findings: outlier, max_count: 9")
    verdicts = asyncio.gather(*(evaluate(influence, after, baseline=before, policy=text) for _ in range(20)))
    pages = asyncio.gather(
        *(compare(influence, *pair) for _ in range(10) for pair in ((after, before), (before, after)))
    )
    first, *others = await verdicts
    assert (first.verdict, all(other == first for other in others)) == (FAIL, True)
    found = [[(change.change, change.finding_id) for change in page.changes] for page in await pages]
    assert found[::2] == [found[0]] * 10
    turned = {NEW: FIXED, FIXED: NEW}
    assert all(sorted((turned[change], one) for change, one in page) == sorted(found[0]) for page in found[1::2])


class TestWhatIsRefused:
    async def test_jobs_that_are_no_audits(self, influence: Influence, after: str) -> None:
        other = (await influence.run(SUCCEED)).name
        for call in (evaluate(influence, other), compare(influence, other, after)):
            refused = await refusal(call)
            assert (refused.reason, refused.metadata["field"]) == ("ARGUMENT_INVALID", "name")
            assert "is a rank job" in refused.message
        for call in (evaluate(influence, after, baseline=other), compare(influence, after, other)):
            refused = await refusal(call)
            assert (refused.reason, refused.metadata["field"]) == ("ARGUMENT_INVALID", "baseline")

    @pytest.mark.parametrize("state", [JobState.RUNNING, JobState.FAILED])
    async def test_audits_without_results(self, influence: Influence, after: str, state: JobState) -> None:
        name = await put_job(influence, "unfinished", state=state)
        for call in (
            evaluate(influence, name),
            evaluate(influence, after, baseline=name),
            compare(influence, name, after),
            compare(influence, after, name),
        ):
            assert (await refusal(call)).reason == "JOB_NOT_SUCCEEDED"

    async def test_names_that_are_none(self, influence: Influence, after: str) -> None:
        missing = after.replace("after", "missing")
        assert (await refusal(evaluate(influence, missing))).reason == "JOB_NOT_FOUND"
        assert (await refusal(compare(influence, after, missing))).reason == "JOB_NOT_FOUND"
        for call in (evaluate(influence, "x"), compare(influence, after, ""), evaluate(influence, after, baseline="x")):
            assert (await refusal(call)).reason == "ARGUMENT_INVALID"

    async def test_a_bad_policy(self, influence: Influence, after: str) -> None:
        refused = await refusal(evaluate(influence, after, policy=policy("name: a, figure: leaks, maxx: 1")))
        assert refused.reason == "POLICY_INVALID"
        assert refused.metadata == {"line": "3", "rule": "a", "field": "maxx"}
        refused = await refusal(evaluate(influence, after, policy="#" * (MAX_BYTES + 1)))
        assert "65,537 bytes" in refused.message

    @pytest.mark.parametrize(
        ("fields", "reason", "said"),
        [
            ({"page_size": -1}, "ARGUMENT_INVALID", "page_size"),
            ({"page_token": "x"}, "PAGE_TOKEN_INVALID", "page_token"),
            ({"changes": [9]}, "ARGUMENT_INVALID", "changes"),
            ({"changes": [0]}, "ARGUMENT_INVALID", "changes"),
            ({"kinds": ["leak", "leek"]}, "ARGUMENT_INVALID", "'leek' is not a kind of finding; known are confusion"),
        ],
    )
    async def test_a_bad_comparison(
        self, influence: Influence, after: str, before: str, fields: dict[str, Any], reason: str, said: str
    ) -> None:
        refused = await refusal(compare(influence, after, before, **fields))
        assert refused.reason == reason
        assert said in refused.message

    async def test_tokens_of_another_request(self, influence: Influence, after: str, before: str) -> None:
        token = (await compare(influence, after, before, page_size=1)).next_page_token
        assert (await compare(influence, after, before, page_token=token, page_size=3)).changes
        others: list[dict[str, Any]] = [{"kinds": ["leak"]}, {"changes": [NEW]}]
        for fields in others:
            refused = await refusal(compare(influence, after, before, page_token=token, **fields))
            assert refused.reason == "PAGE_TOKEN_INVALID"
        assert (await refusal(compare(influence, before, after, page_token=token))).reason == "PAGE_TOKEN_INVALID"

    async def test_a_table_that_is_damaged(self, influence: Influence, after: str, before: str) -> None:
        job = await influence.stub.GetInfluenceJob(service_pb2.GetInfluenceJobRequest(name=after))
        (influence.root / "results" / job.uid / "findings.parquet").write_bytes(b"x")
        assert (await refusal(compare(influence, after, before))).reason == "RESULT_CORRUPT"
        assert (await refusal(compare(influence, before, after))).reason == "RESULT_CORRUPT"
        text = policy("name: a, findings: leak, max_count: 9")
        assert (await refusal(evaluate(influence, after, policy=text))).reason == "RESULT_CORRUPT"
        assert (await evaluate(influence, before, policy=text)).verdict == PASS

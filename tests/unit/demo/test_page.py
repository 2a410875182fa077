from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.client.embeddings import EmbeddingServerInfo
from services.client.gate import AuditVerdict, Verdict
from services.client.jobs import Job, JobState
from services.client.rows import QueryPair, RankedSample, RelabelSuggestion, Voter
from services.demo.audit import Audited
from services.demo.data import DemoData, DemoImage
from services.demo.flow import Explained, Findings, Refusal
from services.demo.page import detection_curve, write_page
from services.demo.summary import Seconds, Summary

HOSTILE = '<script>alert("x")</script>'


def image(sample_id: str, label: str, true_label: str) -> DemoImage:
    return DemoImage(sample_id=sample_id, label=label, true_label=true_label, png=b"\x89PNG")


def job(name: str) -> Job:
    return Job(name=f"projects/p/influenceJobs/{name}", uid="u", kind="rank", state=JobState.SUCCEEDED)


VERDICT = AuditVerdict(
    verdict=Verdict.PASS,
    rules=(),
    changes=(),
    new_findings=(),
    audit="a",
    baseline="",
    policy_version=1,
    policy_sha256="",
    figures={},
    baseline_figures={},
)


@pytest.fixture
def page(tmp_path: Path) -> str:
    train = [image(HOSTILE, "a", "b"), image("s2", "b", "b")]
    data = DemoData(
        name="digits",
        train=train,
        test=[image("t1", "c", "c"), image("t2", "d", "d")],
        image_size=8,
        dark_strokes=False,
    )
    pair = QueryPair(
        query_id="q", kind="confusion", sample_id="t1", neighbor_id="t2", label="c", neighbor_label="d", distance=0.1
    )
    ranking = [
        RankedSample(query_id="all", rank=rank, sample_id=each.sample_id, label=each.label, score=3.0 - 2 * rank)
        for rank, each in enumerate(train, start=1)
    ]
    suggestion = RelabelSuggestion(
        rank=1,
        sample_id=HOSTILE,
        label="a",
        suggested_label="b",
        suggested_probability=0.9,
        label_probability=0.1,
        score=0.9,
        neighbors=(Voter(sample_id="s2", label="b", distance=0.2),),
    )
    findings = Findings(
        server=EmbeddingServerInfo(
            version="1",
            execution_provider="CPUExecutionProvider",
            available_providers=(),
            uri_schemes=(),
            max_images_per_request=1,
            max_image_bytes=1,
            max_image_pixels=1,
            max_queries_per_request=1,
            max_neighbors=1,
        ),
        rank_job=job("ranked"),
        relabel_job=job("relabelled"),
        confusions=[pair],
        explained=[Explained(pair=pair, harmful=ranking[:1], helpful=ranking[1:])],
        ranking=ranking,
        suggestions=[suggestion],
        harmful_checked=[],
        audited=Audited(job=job("audited"), flagged={HOSTILE: "b"}, verdict=VERDICT, seconds=1.0),
        refusals=[Refusal(attempt="read", reason="URI_NOT_ALLOWED", message=HOSTILE)],
        rank_seconds=1.0,
        relabel_seconds=1.0,
    )
    summary = Summary(
        train_samples=2,
        test_samples=2,
        confusion_pairs=1,
        flips_planted=1,
        flips_found_at_budget=1,
        influence_found_at_budget=1,
        relabel_hit_rate=1.0,
        recall_at_1=0.5,
        audit_flagged=1,
        audit_flips_found=1,
        audit_hit_rate=1.0,
        gate="PASS",
        seconds=Seconds(
            train=1, export=1, start=1, upload=1, rank=2, features=1, influence=1, relabel=1, audit=1, total=8
        ),
        store="local",
        data="digits",
        device="cpu",
        engine_version="0",
    )
    write_page(tmp_path / "report.html", data, findings, summary)
    return (tmp_path / "report.html").read_text()


def test_it_needs_no_network(page: str) -> None:
    assert not re.findall(r"https?://|//[a-z]+\.[a-z]+/|<link|<script", page)
    assert "data:image/png;base64," in page


def test_ids_are_escaped(page: str) -> None:
    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_every_image_says_what_it_shows(page: str) -> None:
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) >= 6
    assert all(re.search(r'alt="[^"]+"', each) for each in images)


def test_the_detection_curve_counts_flips_in_the_order_of_review() -> None:
    assert detection_curve(["a", "b", "c", "d"], {"b": "x", "d": "y"}) == [
        (0.0, 0.0),
        (0.25, 0.0),
        (0.5, 0.5),
        (0.75, 0.5),
        (1.0, 1.0),
    ]

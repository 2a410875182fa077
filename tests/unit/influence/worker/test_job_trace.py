from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from eif_engine.errors import ManifestInvalid
from services.common.traceparent import TraceParent
from services.common.tracing import Attribute, Span, SpanKind
from services.influence.worker.cancellation import Cancelled
from services.influence.worker.job_trace import MAX_STORAGE_SPANS, JobTrace

PARENT = TraceParent(trace_id="a" * 32, span_id="b" * 16)


class Kept:
    """A span that is kept."""

    def __init__(self, name: str, parent: TraceParent | None, number: int) -> None:
        self.name, self.parent, self.error = name, parent, "not ended"
        self.place: TraceParent | None = TraceParent(trace_id="a" * 32, span_id=f"{number:016x}")
        self.attributes: dict[str, Attribute] = {}

    def end(self, *, error: str | None = None, attributes: Mapping[str, Attribute] | None = None) -> None:
        self.error = error or ""
        self.attributes |= attributes or {}


class Spans:
    """Tracing that keeps its spans, and which is current."""

    def __init__(self) -> None:
        self.spans: list[Kept] = []
        self.currently: list[Span] = []

    def start(
        self,
        name: str,
        *,
        parent: TraceParent | None,
        kind: SpanKind = SpanKind.INTERNAL,  # noqa: ARG002  the form of Tracing
        attributes: Mapping[str, Attribute] | None = None,  # noqa: ARG002  the form of Tracing
    ) -> Span:
        self.spans.append(Kept(name, parent, len(self.spans) + 1))
        return self.spans[-1]

    @contextmanager
    def current(self, span: Span) -> Iterator[None]:
        self.currently.append(span)
        yield
        self.currently.remove(span)

    def close(self, *, timeout_s: float) -> None:
        """Nothing to send."""


def test_stages_have_the_job_as_their_parent_and_are_current() -> None:
    spans = Spans()
    trace = JobTrace(spans, PARENT)
    for name in ("inputs", "features"):
        with trace.stage(name):
            assert spans.currently == [spans.spans[-1]]
    assert [(span.name, span.parent, span.error) for span in spans.spans] == [
        ("stage inputs", PARENT, ""),
        ("stage features", PARENT, ""),
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [(ManifestInvalid("m"), "MANIFEST_INVALID"), (Cancelled(), "JOB_CANCELLED"), (ZeroDivisionError(), "INTERNAL")],
)
def test_a_stage_that_fails_says_why(error: Exception, told: str) -> None:
    spans = Spans()
    trace = JobTrace(spans, PARENT)
    with pytest.raises(type(error)), trace.stage("inputs"):
        raise error
    assert spans.spans[0].error == told
    assert trace.storage_place() == PARENT


def test_requests_belong_to_the_stage_and_only_so_many_have_a_span() -> None:
    spans = Spans()
    trace = JobTrace(spans, PARENT)
    assert trace.storage_place() == PARENT
    for _ in range(2):
        with trace.stage("features"):
            places = [trace.storage_place() for _ in range(MAX_STORAGE_SPANS + 50)]
        stage = spans.spans[-1]
        assert places == [stage.place] * MAX_STORAGE_SPANS + [None] * 50
        assert stage.attributes["eif.storage.requests"] == MAX_STORAGE_SPANS + 50
    assert trace.storage_place() == PARENT


def test_without_traces_nothing_has_a_span() -> None:
    trace = JobTrace(parent=PARENT)
    with trace.stage("inputs"):
        assert trace.storage_place() is None
    assert trace.storage_place() is None

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from services.common import tracing
from services.common.otel import OtelTracing
from services.common.traceparent import TraceParent
from services.common.tracing import NoTracing, SpanKind, open_tracing
from tests.conftest import REPO
from tests.otlp import running_collector

PARENT = TraceParent(trace_id="a" * 32, span_id="b" * 16)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_without_an_endpoint_traces_are_off(environ: dict[str, str]) -> None:
    off = open_tracing("x", environ)
    assert isinstance(off, NoTracing)
    span = off.start("s", parent=PARENT)
    assert span.place == PARENT
    span.end(error="X")
    with off.current(span):
        pass
    off.close(timeout_s=0)


def test_an_endpoint_without_opentelemetry_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "find_spec", lambda _name: None)
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    with caplog.at_level(logging.WARNING):
        assert isinstance(open_tracing("x", environ), NoTracing)
    assert "install the extra `tracing`" in caplog.text


def test_opentelemetry_is_not_imported_where_traces_are_off() -> None:
    program = (
        "import sys, os\n"
        "import services.influence.__main__, services.embedding.__main__, services.client.influence\n"
        "from services.common.tracing import open_tracing\n"
        "open_tracing('x', {})\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True, timeout=60)


def test_spans_go_to_the_collector_with_their_names_and_parents(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_collector() as collector:
        for name, value in collector.environ.items():
            monkeypatch.setenv(name, value)
        sender = open_tracing("eif-test", collector.environ)
        root = sender.start("root", parent=None, kind=SpanKind.SERVER, attributes={"a": 1})
        child = sender.start("child", parent=root.place)
        child.end(error="QUEUE_FULL", attributes={"b": "c"})
        child.end(error="LATER")
        root.end()
        sender.close(timeout_s=10)
        spans = {span.name: span for span in collector.spans}
    assert root.place is not None
    assert (spans["root"].service, spans["root"].parent_id, spans["root"].error) == ("eif-test", "", None)
    assert spans["root"].attributes == {"a": 1}
    assert (spans["child"].parent_id, spans["child"].error) == (root.place.span_id, "QUEUE_FULL")
    assert spans["child"].attributes == {"b": "c", "error.type": "QUEUE_FULL"}


def test_the_name_that_operators_give_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_collector() as collector:
        environ = collector.environ | {"OTEL_SERVICE_NAME": "theirs"}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        sender = open_tracing("eif-test", environ)
        sender.start("s", parent=None).end()
        sender.close(timeout_s=10)
        assert [span.service for span in collector.spans] == ["theirs"]


def test_two_tracings_in_one_process_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    with running_collector() as collector:
        for name, value in collector.environ.items():
            monkeypatch.setenv(name, value)
        one, two = OtelTracing("one"), OtelTracing("two")
        one.start("s", parent=PARENT).end()
        one.close(timeout_s=10)
        two.close(timeout_s=10)
        assert [(span.service, span.parent_id) for span in collector.spans] == [("one", PARENT.span_id)]

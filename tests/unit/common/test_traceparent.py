from __future__ import annotations

import pytest

from services.common.traceparent import TraceParent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_what_is_read_is_what_was_written() -> None:
    for sampled, flags in ((True, "01"), (False, "00")):
        place = TraceParent(trace_id=TRACE, span_id=SPAN, sampled=sampled)
        assert str(place) == f"00-{TRACE}-{SPAN}-{flags}"
        assert TraceParent.parse(str(place)) == place


def test_flags_and_fields_of_later_versions_are_passed_over() -> None:
    expected = TraceParent(trace_id=TRACE, span_id=SPAN, sampled=True)
    assert TraceParent.parse(f"00-{TRACE}-{SPAN}-ff") == expected
    assert TraceParent.parse(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings") == expected


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f" 00-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 1000}",
    ],
)
def test_what_is_none_is_ignored(text: str | None) -> None:
    assert TraceParent.parse(text) is None


def test_one_among_the_metadata_of_a_call() -> None:
    text = f"00-{TRACE}-{SPAN}-01"
    assert TraceParent.among([("x", "y"), ("traceparent", text)]) == TraceParent.parse(text)
    assert TraceParent.among([("x", "y")]) is None
    assert TraceParent.among([("traceparent", text), ("traceparent", text)]) is None

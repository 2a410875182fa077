from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.influence.job_output import LineSplitter, MessageReader
from services.influence.messages import CancelledMessage, FailedMessage, Message, ProgressMessage
from tests.jobs import PROGRESS


@given(
    st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line)), st.lists(st.integers(1, 40), min_size=1)
)
def test_lines_are_found_however_they_arrive(lines: list[bytes], sizes: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines) + b"cut off"
    splitter = LineSplitter(max_bytes=20)
    found: list[bytes] = []
    while data:
        size = sizes[len(found) % len(sizes)]
        piece, data = data[:size], data[size:]
        found += splitter.feed(piece)
    assert found == [line for line in lines if len(line) <= 20]


def test_an_endless_line_is_not_held_in_memory() -> None:
    splitter = LineSplitter(max_bytes=1000)
    for _ in range(100):
        assert splitter.feed(b"x" * 999) == []
        assert len(splitter._held) <= 1000
    assert splitter.feed(b"\nnext\n") == [b"next"]


def feed(data: bytes) -> tuple[list[Message], MessageReader]:
    messages: list[Message] = []
    reader = MessageReader(messages.append)
    reader.feed(data)
    return messages, reader


def test_messages_are_told_from_what_is_none(caplog: pytest.LogCaptureFixture) -> None:
    good = PROGRESS.model_dump_json().encode()
    bad = [b"Traceback", b"{}", b'{"type": "unknown"}', b"\xff\xfe", good[:-1], b"[" * 100_000, b""]
    with caplog.at_level(logging.WARNING):
        messages, reader = feed(b"\n".join([*bad, good, b""]))
    assert messages == [PROGRESS]
    assert reader.last is None
    assert len(caplog.records) == len(bad) - 1
    assert max(len(record.getMessage()) for record in caplog.records) < 400


def test_a_flood_of_other_lines_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        messages, _ = feed(b"noise\n" * 10_000)
    assert messages == []
    assert len(caplog.records) == 20


def test_after_the_last_message_nothing_counts() -> None:
    last = FailedMessage(reason="MANIFEST_INVALID", message="line 3", metadata={"line": "3"})
    lines = [PROGRESS, last, CancelledMessage(), PROGRESS]
    messages, reader = feed(b"".join(line.model_dump_json().encode() + b"\n" for line in lines))
    assert messages == [PROGRESS, last]
    assert reader.last == last


def test_a_handler_that_fails_does_not_stop_the_reading(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []

    def handle(message: Message) -> None:
        assert isinstance(message, ProgressMessage)
        seen.append(message.done)
        raise RuntimeError("broken")

    reader = MessageReader(handle)
    for done in range(3):
        reader.feed(json.dumps(PROGRESS.model_dump() | {"done": done}).encode() + b"\n")
    assert seen == [0, 1, 2]
    assert "could not be handled" in caplog.text

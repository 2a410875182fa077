"""What a job process prints on standard output: messages, one a line, from a process that is not trusted to behave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import IO

from pydantic import ValidationError

from services.influence.messages import MESSAGE, Message
from services.influence.runner import LastMessage, OnMessage

MAX_LINE_BYTES = 1 << 20

_CHUNK_BYTES = 1 << 16
_SHOWN = 200
_MAX_COMPLAINTS = 20

logger = logging.getLogger(__name__)


class LineSplitter:
    """Cuts what comes in into lines. One that is longer than `max_bytes` is left out, and never held in memory."""

    def __init__(self, *, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held = b""
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that end in `data`, without their ends."""
        *ended, rest = (self._held + data).split(b"\n")
        lines = [line for line in ended[self._skipping :] if len(line) <= self._max_bytes]
        self._skipping = (self._skipping and not ended) or len(rest) > self._max_bytes
        self._held = b"" if self._skipping else rest
        return lines


class MessageReader:
    """Turns lines into messages. What is no message is logged and left out; after the last message nothing counts."""

    def __init__(self, on_message: OnMessage) -> None:
        self.last: LastMessage | None = None
        self._on_message = on_message
        self._splitter = LineSplitter()
        self._complaints = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the output."""
        for line in self._splitter.feed(data):
            message = self._parse(line)
            if message is not None and self.last is None:
                self._hand_on(message)

    def _hand_on(self, message: Message) -> None:
        if isinstance(message, LastMessage):
            self.last = message
        try:
            self._on_message(message)
        except Exception:
            logger.exception("a message of a job process could not be handled")

    def _parse(self, line: bytes) -> Message | None:
        try:
            return MESSAGE.validate_json(line)
        except ValidationError:
            self._complaints += 1
            if line.strip() and self._complaints <= _MAX_COMPLAINTS:
                logger.warning("a job process printed what is no message: %r", line[:_SHOWN])
            return None


async def drain(pipe: IO[bytes], sink: Callable[[bytes], None]) -> None:
    """Read a pipe to its end, and hand on every piece as it comes."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    try:
        while data := await reader.read(_CHUNK_BYTES):
            sink(data)
    finally:
        transport.close()

"""Messages to the parent: one JSON object a line on what was standard output when the process started."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from services.influence.messages import CancelledMessage, FailedMessage, Message, SucceededMessage

Send = Callable[[Message], None]
"""Hands a message to the parent."""

LastMessage = SucceededMessage | FailedMessage | CancelledMessage
"""How a job ended."""


class Outbox:
    """Owns standard output. Whatever else prints there, a library or the C runtime, is sent to standard error."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._handle = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, message: Message, *, timeout_s: float = -1) -> None:
        """Write one line at once. With a time-out, gives up when another thread is stuck in here.

        Raises:
            BrokenPipeError: The parent no longer reads.
        """
        line = message.model_dump_json().encode() + b"\n"
        if not self._lock.acquire(timeout=timeout_s):
            return
        try:
            while line:
                line = line[os.write(self._handle, line) :]
        finally:
            self._lock.release()

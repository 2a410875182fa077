"""Messages to a control plane on another machine: the newest of each kind, in an object that it reads.

Progress is written by a thread of its own, now and then, so that a slow store holds up no work. The last message is
written at once, and tried for as long as the store is away.
"""

from __future__ import annotations

import logging
import threading
import time

from services.common.errors import ServiceError
from services.influence.messages import Message, ProgressMessage, TotalsMessage
from services.influence.run_folder import RunFolder

INTERVAL_S = 1.0
PATIENCE_S = 120.0

logger = logging.getLogger(__name__)


class Mailbox:
    """Takes the place of an Outbox.

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._newest: dict[str, Message] = {}
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._changed = threading.Event()
        self._ended = False
        threading.Thread(target=self._write_often, name="mailbox", daemon=True).start()

    def send(self, message: Message, *, timeout_s: float = -1) -> None:
        """Take a message. The last one is in the store when this returns; with a time-out, one try is made."""
        with self._lock:
            if self._ended:
                return
            self._newest[message.type] = message
            self._ended = not isinstance(message, ProgressMessage | TotalsMessage)
        self._changed.set()
        if self._ended:
            self._write_last(patience_s=PATIENCE_S if timeout_s < 0 else 0.0, timeout_s=timeout_s)

    def _write_often(self) -> None:
        while True:
            self._changed.wait()
            self._changed.clear()
            if self._ended:
                return
            with self._writing:
                self._try()
            time.sleep(INTERVAL_S)

    def _write_last(self, *, patience_s: float, timeout_s: float) -> None:
        deadline = time.monotonic() + patience_s
        if not self._writing.acquire(timeout=timeout_s):
            return
        try:
            while not self._try() and time.monotonic() < deadline:
                time.sleep(INTERVAL_S)
        finally:
            self._writing.release()

    def _try(self) -> bool:
        with self._lock:
            messages = list(self._newest.values())
        try:
            self._folder.write_messages(messages)
        except ServiceError as error:
            logger.warning("messages could not be written: %s", error.message)
            return False
        return True

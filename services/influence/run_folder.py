"""The folder of a run that works on other machines: in the object store, where both sides find it.

<folder of the results>/.run/<attempt>/job.json         what is asked for, from the control plane
<folder of the results>/.run/<attempt>/started         when its process started there, seconds since 1970
<folder of the results>/.run/<attempt>/messages.jsonl   the newest progress and totals, at last the last message
"""

from __future__ import annotations

import time

from pydantic import ValidationError

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.messages import MESSAGE, Message
from services.influence.result_manifest import result_folder
from services.influence.spec import JobRequest

MAX_JOB_BYTES = 64 << 20
MAX_MESSAGES_BYTES = 4 << 20

_JOB, _STARTED, _MESSAGES = "job.json", "started", "messages.jsonl"
_MAX_STARTED_BYTES = 64
_NOT_YET = frozenset({"OBJECT_NOT_FOUND", "OBJECT_CHANGED"})


class RunFolder:
    """One such folder. Every method raises the errors of the store.

    Args:
        store: Where it lies.
        uri: Its URI.
    """

    def __init__(self, store: ObjectStore, uri: str) -> None:
        self._store, self.uri = store, uri.rstrip("/")

    @classmethod
    def of(cls, store: ObjectStore, request: JobRequest) -> RunFolder:
        """The folder of an attempt."""
        results = result_folder(request.output_uri_prefix, request.uid)
        return cls(store, f"{results}/.run/{request.attempt}")

    def write_request(self, request: JobRequest) -> None:
        """Tell what is asked for."""
        self._store.put(f"{self.uri}/{_JOB}", request.model_dump_json().encode())

    def read_request(self) -> bytes:
        """What is asked for, as JSON."""
        return self._store.read(f"{self.uri}/{_JOB}", max_bytes=MAX_JOB_BYTES)

    def note_start(self) -> None:
        """The process of the run begins now."""
        self._store.put(f"{self.uri}/{_STARTED}", f"{time.time():.3f}\n".encode())

    def age_s(self) -> float:
        """Seconds since its process began, by the clocks of both machines; 0 when it has not said so yet."""
        try:
            started = float(self._store.read(f"{self.uri}/{_STARTED}", max_bytes=_MAX_STARTED_BYTES))
        except (ServiceError, ValueError) as error:
            if isinstance(error, ValueError) or error.reason in _NOT_YET:
                return 0.0
            raise
        return max(0.0, time.time() - started)

    def write_messages(self, messages: list[Message]) -> None:
        """Replace the messages."""
        lines = b"".join(message.model_dump_json().encode() + b"\n" for message in messages)
        self._store.put(f"{self.uri}/{_MESSAGES}", lines)

    def read_messages(self) -> list[Message]:
        """The messages there are; what is none is passed over."""
        try:
            data = self._store.read(f"{self.uri}/{_MESSAGES}", max_bytes=MAX_MESSAGES_BYTES)
        except ServiceError as error:
            if error.reason in _NOT_YET:
                return []
            raise
        return [message for line in data.splitlines() if (message := _parsed(line)) is not None]

    def remove(self) -> None:
        """Remove it with what lies in it."""
        for item in list(self._store.list(f"{self.uri}/")):
            self._store.delete(item.uri)


def _parsed(line: bytes) -> Message | None:
    try:
        return MESSAGE.validate_json(line)
    except ValidationError:
        return None

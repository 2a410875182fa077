"""What this job has done so far, for the metrics of the control plane."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

from services.common.storage.metered import StorageCall
from services.influence.messages import Message, ProgressMessage, StorageRequests, TotalsMessage
from services.influence.worker.outbox import Send

INTERVAL_S = 5.0


class JobTotals:
    """Counts; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}
        self._hits = self._misses = 0
        self._pending = self._running = 0
        self._attempts: Counter[str] = Counter()

    def record(self, call: StorageCall) -> None:
        """A request to the object store has ended."""
        with self._lock:
            self._requests[call.op, call.code] += 1
            self._bytes[call.op] += call.size
            self._seconds[call.op] = self._seconds.get(call.op, 0.0) + call.seconds

    def add(self, done: TotalsMessage) -> None:
        """Another process has made requests to the object store for this job."""
        with self._lock:
            self._requests.update(done.requests())
            self._bytes.update(done.storage_bytes)
            for op, seconds in done.storage_seconds.items():
                self._seconds[op] = self._seconds.get(op, 0.0) + seconds

    def features(self, *, hits: int, misses: int) -> None:
        """Features of so many samples are there: known before, or computed."""
        with self._lock:
            self._hits += hits
            self._misses += misses

    def shards(self, *, pending: int, running: int) -> None:
        """How many shards wait, and how many are in work."""
        with self._lock:
            self._pending, self._running = pending, running

    def shard_attempt(self, outcome: str, count: int = 1) -> None:
        """Attempts of shards have ended: succeeded, failed, retried or skipped (the result was there)."""
        with self._lock:
            self._attempts[outcome] += count

    def message(self) -> TotalsMessage:
        """The totals now."""
        with self._lock:
            return TotalsMessage(
                cache_hits=self._hits,
                cache_misses=self._misses,
                storage_requests=tuple(
                    StorageRequests(op=op, code=code, count=count) for (op, code), count in self._requests.items()
                ),
                storage_bytes=dict(self._bytes),
                storage_seconds={op: round(seconds, 6) for op, seconds in self._seconds.items()},
                shards_pending=self._pending,
                shards_running=self._running,
                shard_attempts=dict(self._attempts),
            )


class TotalsSender:
    """Sends totals along with progress, when they have changed and the last ones are some seconds old.

    Args:
        totals: The job's.
        send: Takes all messages.
        clock: Seconds, monotonic.
    """

    def __init__(self, totals: JobTotals, send: Send, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._totals, self._send, self._clock = totals, send, clock
        self._sent, self._sent_at = TotalsMessage(), clock()

    def __call__(self, message: Message) -> None:
        """Send a message."""
        self._send(message)
        if isinstance(message, ProgressMessage) and self._clock() - self._sent_at >= INTERVAL_S:
            self.flush()

    def flush(self) -> None:
        """Send the totals now, unless nothing has changed."""
        message = self._totals.message()
        self._sent_at = self._clock()
        if message != self._sent:
            self._send(message)
            self._sent = message

"""What the embedding service measures of its work. docs/operations.md says what each means and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from services.common.errors import STATUS_BY_REASON

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from services.common.call_record import CallRecord
    from services.embedding.admission import Admission

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_METHODS = frozenset({"EmbedImages", "SearchNeighbors"})

SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class EmbeddingMetrics:
    """Queues, batches and their times; a CallObserver too. Thread-safe.

    Args:
        registry: Of the server; one of its own when not given.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._items = Gauge(
            "eif_embed_queue_items", "Images or queries in work or waiting.", ["queue"], registry=registry
        )
        self._bytes = Gauge(
            "eif_embed_queue_bytes", "Bytes of images that came inside of requests.", ["queue"], registry=registry
        )
        self._batch = Histogram(
            "eif_embed_batch_size", "Images that ran together.", buckets=BATCH_BUCKETS, registry=registry
        )
        self._queue_seconds = _seconds("eif_embed_queue_seconds", "A batch waits for its model.", registry)
        self._decode_seconds = _seconds("eif_embed_decode_seconds", "An image is decoded and prepared.", registry)
        self._infer_seconds = _seconds("eif_embed_infer_seconds", "A model computes a batch.", registry)
        self._search_seconds = _seconds("eif_embed_search_seconds", "An index is searched.", registry)
        self._rejected = Counter(
            "eif_embed_rejected_total", "Requests that got no vectors or neighbours.", ["reason"], registry=registry
        )
        self._rejected.labels("QUEUE_FULL")

    def show_queue(self, name: str, queue: Admission) -> None:
        """Show how full a queue is."""
        self._items.labels(name).set_function(lambda: queue.items)
        self._bytes.labels(name).set_function(lambda: queue.size)

    def batch(self, images: int, *, waited: float, ran: float) -> None:
        """A batch has run: its images, and its seconds."""
        self._batch.observe(images)
        self._queue_seconds.observe(waited)
        self._infer_seconds.observe(ran)

    def decoding(self) -> AbstractContextManager[object]:
        """An image is decoded within the block."""
        return self._decode_seconds.time()

    def searching(self) -> AbstractContextManager[object]:
        """An index is searched, for the queries of a request, within the block."""
        return self._search_seconds.time()

    def begin(self, record: CallRecord) -> None:
        """As CallObserver."""

    def end(self, record: CallRecord) -> None:
        """As CallObserver: count a request for vectors or neighbours that ends with an error."""
        if record.method.rpartition("/")[2] in _METHODS and record.reason in STATUS_BY_REASON:
            self._rejected.labels(record.reason).inc()


def _seconds(name: str, what: str, registry: CollectorRegistry) -> Histogram:
    return Histogram(name, what, buckets=SECONDS_BUCKETS, registry=registry)

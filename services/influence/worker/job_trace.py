"""Spans of this job: one for each stage, and below it those of its requests to the object store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from eif_engine.errors import EifError
from services.common.traceparent import TraceParent
from services.common.tracing import NoTracing, Tracing
from services.influence.worker.cancellation import Cancelled

MAX_STORAGE_SPANS = 100
"""Of one stage. A stage may read an image a request, a million of them; metrics count them all."""


class JobTrace:
    """Stages follow each other, on one thread; requests come from any.

    Args:
        tracing: Makes spans.
        parent: What the job is done for.
    """

    def __init__(self, tracing: Tracing | None = None, parent: TraceParent | None = None) -> None:
        self._tracing = tracing or NoTracing()
        self._is_on = not isinstance(self._tracing, NoTracing)
        self._parent = self._place = parent
        self._requests = itertools.count()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """The span of a stage."""
        span = self._tracing.start(f"stage {name}", parent=self._parent, attributes={"eif.stage": name})
        self._place, self._requests = span.place, itertools.count()
        error: str | None = "INTERNAL"
        try:
            with self._tracing.current(span):
                yield
            error = None
        except Cancelled:
            error = "JOB_CANCELLED"
            raise
        except EifError as failure:
            error = failure.reason
            raise
        finally:
            span.end(error=error, attributes={"eif.storage.requests": next(self._requests)})
            self._place, self._requests = self._parent, itertools.count()

    def storage_place(self) -> TraceParent | None:
        """The parent of the next request's span; None when it is to have none."""
        number = next(self._requests)
        return self._place if self._is_on and number < MAX_STORAGE_SPANS else None

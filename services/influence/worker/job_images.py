"""Images of samples, as the stages of a job read them: a tar is fetched and looked through once, not by each."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import ExitStack
from pathlib import Path

from eif_engine.types import Quarantined, Sample
from services.common.samples import SampleReader
from services.common.storage.base import ObjectStore


class JobImages:
    """Reads images until it is closed, and again after that.

    Args:
        store: Where they lie.
        workers: Threads that read.
        scratch: Folder for tars; it is left as it was found.
    """

    def __init__(self, store: ObjectStore, *, workers: int, scratch: Path) -> None:
        self._store, self._workers, self._scratch = store, workers, scratch
        self._reader: SampleReader | None = None
        self._held = ExitStack()

    def read(self, samples: Iterable[Sample]) -> Generator[tuple[Sample, bytes | Quarantined]]:
        """As SampleReader.read does; close it (or end it) to stop that."""
        if self._reader is None:
            self._reader = self._held.enter_context(
                SampleReader(self._store, workers=self._workers, scratch=self._scratch)
            )
        return self._reader.read(samples)

    def close(self) -> None:
        """Let go of tars and of what is known of them, and stop the threads."""
        self._reader = None
        self._held.close()

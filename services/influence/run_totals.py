"""From what job processes tell of their work to what this server counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from services.common.errors import STATUS_BY_REASON
from services.common.metrics import StorageMetrics
from services.common.storage.metered import OK, OPERATIONS, OTHER
from services.influence.messages import TotalsMessage
from services.influence.metrics import SHARD_OUTCOMES, InfluenceMetrics

_Key = TypeVar("_Key")


class RunTotals:
    """Adds up what is new in the totals of each run. Labels come from here alone, whatever a process says.

    Args:
        metrics: Takes samples and shards.
        storage: Takes requests to the object store.
    """

    def __init__(self, metrics: InfluenceMetrics, storage: StorageMetrics) -> None:
        self._metrics, self._storage = metrics, storage
        self._known: dict[Path, TotalsMessage] = {}

    def update(self, folder: Path, totals: TotalsMessage) -> None:
        """The process in a folder tells its totals, which only ever grow."""
        before = self._known.get(folder, TotalsMessage())
        self._known[folder] = totals
        self._metrics.work.add(
            hits=int(_grown(totals.cache_hits, before.cache_hits)),
            misses=int(_grown(totals.cache_misses, before.cache_misses)),
        )
        self._storage.add_of_jobs(
            _difference(_requests(totals), _requests(before)),
            _difference(_by_op(totals.storage_bytes), _by_op(before.storage_bytes)),
            _difference(_by_op(totals.storage_seconds), _by_op(before.storage_seconds)),
        )
        for outcome, count in _difference(totals.shard_attempts, before.shard_attempts).items():
            if outcome in SHARD_OUTCOMES:
                self._metrics.shards.attempts(outcome, int(count))
        self._show_shards()

    def forget(self, folder: Path) -> None:
        """The process has ended."""
        self._known.pop(folder, None)
        self._show_shards()

    def _show_shards(self) -> None:
        runs = self._known.values()
        self._metrics.shards.set_shards(
            pending=sum(run.shards_pending for run in runs), running=sum(run.shards_running for run in runs)
        )


def _requests(totals: TotalsMessage) -> dict[tuple[str, str], float]:
    found: Counter[tuple[str, str]] = Counter()
    for (op, code), count in totals.requests().items():
        if op in OPERATIONS:
            found[op, code if code == OK or code in STATUS_BY_REASON else OTHER] += count
    return dict(found)


def _by_op(values: Mapping[str, float]) -> dict[str, float]:
    return {op: value for op, value in values.items() if op in OPERATIONS}


def _difference(after: Mapping[_Key, float], before: Mapping[_Key, float]) -> dict[_Key, float]:
    return {key: _grown(value, before.get(key, 0)) for key, value in after.items()}


def _grown(after: float, before: float) -> float:
    return max(after - before, 0)

"""The findings of audits: counted, compared, read by pages."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.common.errors import ServiceError
from services.influence.gate.verdict import Change, ChangeCount, FindingChange
from services.influence.job import Job
from services.influence.results import require_success
from services.influence.table_cache import TableCache, table_entry

if TYPE_CHECKING:  # pyarrow and numpy are imported with the first table that is asked for
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from services.influence.gate.differences import Differences, Segment
    from services.influence.stored_table import StoredTable

TABLE = "findings"
MAX_FINDINGS = 4_000_000
"""Of both audits of a comparison together: 125 bytes each while it is made, 8 afterwards."""
_BYTES_EACH = 125
_MAX_KEPT = 4 * MAX_FINDINGS
_BATCH_ROWS = 65_536


@dataclass(frozen=True, kw_only=True)
class ChangePage:
    """Changes, and how many the whole answer has."""

    counts: tuple[ChangeCount, ...]
    changes: list[FindingChange]
    total: int


class AuditFindings:
    """Reads the findings of audits that succeeded. Synchronous and thread-safe; comparisons are made one at a time.

    Args:
        cache: The tables.
    """

    def __init__(self, cache: TableCache) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Differences] = OrderedDict()

    def of(self, audit: Job, baseline: Job | None) -> ComparedFindings:
        """The findings of an audit, to be counted."""
        return ComparedFindings(self, audit, baseline)

    def page(
        self, audit: Job, baseline: Job, *, changes: Collection[Change], kinds: Collection[str], offset: int, count: int
    ) -> ChangePage:
        """Changes from `offset` on.

        Raises:
            ServiceError: JOB_NOT_SUCCEEDED, MEMORY_EXCEEDED, and those of TableCache.open.
        """
        from services.influence.gate.differences import window

        compared = self.of(audit, baseline)
        differences = self.compare(audit, baseline)
        segments = differences.segments(changes, kinds)
        return ChangePage(
            counts=differences.counts(),
            changes=compared.read(window(segments, offset=offset, count=count)),
            total=sum(len(segment.rows) for segment in segments),
        )

    def table(self, job: Job) -> StoredTable:
        """The findings of one audit."""
        require_success(job)
        return self._cache.open(job, TABLE)

    def compare(self, audit: Job, baseline: Job) -> Differences:
        """What is new, fixed and persisting; made once for two tables."""
        require_success(audit)
        require_success(baseline)
        ours, theirs = table_entry(audit, TABLE), table_entry(baseline, TABLE)
        _refuse_too_many(ours.rows + theirs.rows)
        key = (ours.sha256, theirs.sha256)
        with self._lock:
            if key not in self._kept:
                self._keep(key, self._compared(audit, baseline))
            self._kept.move_to_end(key)
            return self._kept[key]

    def _compared(self, audit: Job, baseline: Job) -> Differences:
        from services.influence.gate.differences import Differences

        return Differences(self.table(audit), self.table(baseline))

    def _keep(self, key: tuple[str, str], differences: Differences) -> None:
        self._kept[key] = differences
        size = sum(kept.size for kept in self._kept.values())
        while size > _MAX_KEPT:
            _, oldest = self._kept.popitem(last=False)
            size -= oldest.size


class ComparedFindings:
    """The findings of an audit beside those of a baseline, if there is one; what is not asked for is not read."""

    def __init__(self, findings: AuditFindings, audit: Job, baseline: Job | None) -> None:
        self._findings = findings
        self._audit = audit
        self._baseline = baseline

    def count(self, kind: str, *, min_severity: float) -> int:
        """Those of a kind that are at least so severe."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted, least = pa.scalar(kind), pa.scalar(min_severity)
        total = 0
        table = self._findings.table(self._audit)
        for start in range(0, len(table), _BATCH_ROWS):
            rows = table.read(start, _BATCH_ROWS)
            counted = pc.and_(pc.equal(rows["kind"], wanted), pc.greater_equal(rows["severity"], least))
            total += int(counted.to_numpy().sum())
        return total

    def count_new(self, kind: str, *, min_severity: float) -> int | None:
        """Those among them that the baseline does not have; None without a baseline."""
        if self._baseline is None:
            return None
        return sum(len(segment.rows) for segment in self._new(kind, min_severity))

    def changes(self) -> tuple[ChangeCount, ...]:
        """How many of each kind are new, fixed and persisting; empty without a baseline."""
        return self._findings.compare(self._audit, self._baseline).counts() if self._baseline else ()

    def worst_new(self, kinds: Iterable[tuple[str, float]], *, limit: int) -> tuple[FindingChange, ...]:
        """New findings of these kinds that are at least so severe, the most severe first, then by finding id."""
        if self._baseline is None:
            return ()
        found = [segment for kind, severity in _widest(kinds) for segment in self._new(kind, severity)]
        severities = self._severities()
        # There may be a million: keep the worst of each kind before anything is read.
        worst = []
        for part in found:
            order = (-severities[part.rows]).argsort(kind="stable")  # by finding id where they are alike
            worst.append(_replace_rows(part, part.rows[order[:limit]]))
        rows = sorted(self.read(worst), key=lambda change: (-change.severity, change.finding_id))
        return tuple(rows[:limit])

    def read(self, segments: Iterable[Segment]) -> list[FindingChange]:
        """The findings of segments."""
        found: list[FindingChange] = []
        for segment in segments:
            job = self._baseline if segment.change is Change.FIXED else self._audit
            if job is None:
                raise ValueError("fixed findings are those of a baseline, and there is none")
            table = self._findings.table(job)
            rows: pa.Table = table.read(0, len(table)).take(segment.rows)
            found += [FindingChange(change=segment.change, **row) for row in rows.to_pylist()]
        return found

    def _new(self, kind: str, min_severity: float) -> list[Segment]:
        if self._baseline is None:
            return []
        severities = self._severities()
        segments = self._findings.compare(self._audit, self._baseline).segments({Change.NEW}, {kind})
        return [_replace_rows(part, part.rows[severities[part.rows] >= min_severity]) for part in segments]

    def _severities(self) -> NDArray[np.float64]:
        table = self._findings.table(self._audit)
        return table.read(0, len(table))["severity"].to_numpy()


def _replace_rows(segment: Segment, rows: NDArray[np.int64]) -> Segment:
    return type(segment)(change=segment.change, kind=segment.kind, rows=rows)


def _widest(kinds: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Each kind once, with the lowest severity that is asked for."""
    lowest: dict[str, float] = {}
    for kind, severity in kinds:
        lowest[kind] = min(severity, lowest.get(kind, severity))
    return list(lowest.items())


def _refuse_too_many(findings: int) -> None:
    if findings > MAX_FINDINGS:
        raise ServiceError(
            "MEMORY_EXCEEDED",
            f"the two audits have {findings:,} findings together, over the limit of {MAX_FINDINGS:,} for a comparison",
            needed_bytes=findings * _BYTES_EACH,
            budget_bytes=MAX_FINDINGS * _BYTES_EACH,
        )

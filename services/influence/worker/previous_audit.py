"""The audit before: its figures, and what of its findings is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from services.common.errors import ServiceError
from services.influence.result_manifest import MANIFEST_NAME, ResultManifest
from services.influence.worker.job import Job
from services.influence.worker.report import Difference, FindingChange
from services.influence.worker.writer import MAX_MANIFEST_BYTES

MAX_FINDINGS_BYTES = 4 << 30
MAX_CHANGES = 100_000
"""Shown of each kind of change; more than that nobody looks at."""


def difference(job: Job, findings: Path) -> Difference | None:
    """What is different from the audit that the spec names; None where it names none.

    Args:
        job: The job.
        findings: The findings of this audit.

    Raises:
        ServiceError: RESULT_CORRUPT, OBJECT_NOT_FOUND, OBJECT_DIGEST_MISMATCH and others of the store.
    """
    previous = job.request.referred
    if previous is None:
        return None
    data = job.store.read(previous.uri, max_bytes=MAX_MANIFEST_BYTES, sha256=previous.sha256)
    manifest = ResultManifest.model_validate_json(data)
    entry = manifest.tables.get("findings")
    if entry is None:
        raise ServiceError("RESULT_CORRUPT", f"{previous.uri} is of an audit, but names no findings", uri=previous.uri)
    path = job.scratch / "previous-findings.parquet"
    source = f"{previous.uri.removesuffix(MANIFEST_NAME)}{entry.file}"
    job.store.download(source, path, max_bytes=MAX_FINDINGS_BYTES, sha256=entry.sha256)
    return Difference(previous=manifest.name, figures=manifest.figures, changes=_changes(findings, path))


def _changes(now: Path, before: Path) -> list[FindingChange]:
    ours, theirs = _by_id(now), _by_id(before)
    new = [_change("new", row) for finding_id, row in ours.items() if finding_id not in theirs]
    fixed = [_change("fixed", row) for finding_id, row in theirs.items() if finding_id not in ours]
    persisting = [_change("persisting", row) for finding_id, row in ours.items() if finding_id in theirs]
    return [change for changes in (new, fixed, persisting) for change in changes[:MAX_CHANGES]]


def _by_id(path: Path) -> dict[str, dict[str, Any]]:
    return {row["finding_id"]: row for row in pq.read_table(path).to_pylist()}


def _change(change: str, row: dict[str, Any]) -> FindingChange:
    return FindingChange(change=change, **row)

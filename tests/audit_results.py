"""Audits that have succeeded, for tests: tables in the object store of a service, the job in its job table."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from services.influence.clock import now
from services.influence.job import Job, JobOutput, JobState
from services.influence.result_manifest import ResultManifest, TableEntry
from services.influence.spec import Artifact, AuditSpec, JobSpec
from services.influence.tables import SCHEMAS
from services.influence.worker.table_file import TableFile
from tests.influence_app import PARENT, Influence

AUDIT_SPEC = AuditSpec(
    model=Artifact(uri="s3://bucket/model/model.json"),
    train_manifest=Artifact(uri="s3://bucket/train.csv"),
    test_manifest=Artifact(uri="s3://bucket/test.csv"),
)
Row = Mapping[str, Any]


def finding(kind: str, sample_id: str, other_id: str = "", *, severity: float = 0.5, **fields: str) -> dict[str, Any]:
    """A row of `findings`."""
    row = {
        "finding_id": ":".join(filter(None, (kind, sample_id, other_id))),
        "kind": kind,
        "sample_id": sample_id,
        "other_id": other_id,
        "label": "cat",
        "other_label": "dog",
        "severity": severity,
        "summary": f"{kind} of {sample_id}",
    }
    return row | fields


def write_table(folder: Path, name: str, rows: Sequence[Row]) -> TableEntry:
    """Write a table as job processes do; returns its entry in MANIFEST.json."""
    folder.mkdir(parents=True, exist_ok=True)
    with TableFile(name, folder) as table:
        table.write({field.name: [row[field.name] for row in rows] for field in SCHEMAS[name]})
    return table.entry()


async def put_audit(
    influence: Influence,
    job_id: str,
    findings: Sequence[Row] = (),
    *,
    figures: Mapping[str, float] | None = None,
    tables: Mapping[str, Sequence[Row]] | None = None,
    spec: JobSpec = AUDIT_SPEC,
) -> str:
    """Store the results of an audit and the job that made them; returns its name."""
    uid = str(uuid.uuid4())
    folder = influence.root / "results" / uid
    entries = {name: write_table(folder, name, rows) for name, rows in {**(tables or {}), "findings": findings}.items()}
    manifest = ResultManifest(
        name=f"{PARENT}/influenceJobs/{job_id}",
        uid=uid,
        attempt=1,
        kind=spec.kind,
        tables=entries,
        figures=dict(figures or {}),
        provenance={"device": "cpu"},
    )
    data = manifest.model_dump_json().encode()
    (folder / "MANIFEST.json").write_bytes(data)
    output = JobOutput(manifest_sha256=hashlib.sha256(data).hexdigest(), manifest=manifest)
    await put_job(influence, job_id, uid=uid, state=JobState.SUCCEEDED, output=output, spec=spec)
    return manifest.name


async def put_job(
    influence: Influence,
    job_id: str,
    *,
    uid: str = "",
    state: JobState,
    output: JobOutput | None = None,
    spec: JobSpec = AUDIT_SPEC,
) -> str:
    """Put a job in the job table of a service; returns its name."""
    job = Job(
        name=f"{PARENT}/influenceJobs/{job_id}",
        uid=uid or str(uuid.uuid4()),
        spec=spec,
        output_uri_prefix=f"file://{influence.root}/results",
        create_time=now(),
        update_time=now(),
        state=state,
        output=output,
    )
    await influence.app._ledger.create(job, request=None, max_pending=100)
    return job.name

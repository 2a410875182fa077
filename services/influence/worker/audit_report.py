"""report.html of an audit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from eif_engine.audit_types import Audit
from services.influence.worker.explained_confusions import ExplainedConfusions
from services.influence.worker.features import SplitFeatures
from services.influence.worker.job import Job
from services.influence.worker.previous_audit import difference
from services.influence.worker.report import ReportSource, write_report
from services.influence.worker.split import Split
from services.influence.worker.table_file import TableFile
from services.influence.worker.thumbnails import Thumbnails

REPORT_NAME = "report.html"


def write_audit_report(
    job: Job,
    audit: Audit,
    tables: Sequence[TableFile],
    *,
    splits: Sequence[Split],
    features: Sequence[SplitFeatures],
    explained: ExplainedConfusions,
    figures: Mapping[str, float],
    provenance: Mapping[str, str],
) -> Path:
    """Write it from the tables as they are published. Raises Cancelled, and ServiceError of the store."""
    path = job.scratch / REPORT_NAME
    paths = {table.name: table.path for table in tables}
    thumbnails = Thumbnails(job, splits, features)
    source = ReportSource(
        job=job.request.name,
        display_name=job.request.display_name,
        created=datetime.now(UTC),
        provenance=provenance,
        figures=figures,
        missing=[*audit.missing, *([explained.missing] if explained.missing else [])],
        tables=paths,
        difference=difference(job, paths["findings"]),
        explanations=explained.pictures,
        thumbnails=thumbnails,
    )
    write_report(path, source)
    thumbnails.store()
    return path

"""What people have decided about samples before: labels that were found right are not asked about again."""

from __future__ import annotations

from eif_engine.errors import InvalidInput
from services.common.decisions import FORMATS, MAX_BYTES, DecisionsInvalid, read_decisions, reviewed_labels
from services.influence.spec import Artifact
from services.influence.worker.job import Job

Reviewed = frozenset[tuple[str, str]]
"""Sample ids, each with the label that was found right."""


def fetch_reviewed(job: Job, decisions: Artifact | None) -> Reviewed:
    """Samples and the labels that people have found right, or have given, by the newest decision about each.

    Raises:
        EifError: ARGUMENT_INVALID that names file, line and field; OBJECT_NOT_FOUND, OBJECT_DIGEST_MISMATCH.
    """
    if decisions is None:
        return frozenset()
    suffix = next((name for name in FORMATS if decisions.uri.lower().endswith(name)), None)
    if suffix is None:
        what = f"the name of a file of decisions ends with {' or '.join(FORMATS)}, unlike {decisions.uri}"
        raise InvalidInput(what, uri=decisions.uri)
    path = job.scratch / f"decisions{suffix}"
    job.store.download(decisions.uri, path, max_bytes=MAX_BYTES, sha256=decisions.sha256)
    try:
        return frozenset(reviewed_labels(read_decisions(path, decisions.uri)))
    except DecisionsInvalid as error:
        raise InvalidInput(str(error), uri=decisions.uri, line=error.line, field=error.field) from error

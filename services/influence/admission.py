"""What is checked before a job is accepted: everything that can be told without running it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eif_engine.data.manifest_limits import FORMATS
from eif_engine.errors import EifError, ManifestInvalid
from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.job import Job
from services.influence.ledger import Ledger
from services.influence.names import check_index_name, invalid, parse_job_name, shown
from services.influence.new_job import NewJob
from services.influence.results import Results, manifest_of, ranking_of, require_success
from services.influence.spec import Artifact, AuditSpec, ExplainSpec, HarmfulSamples, RankSpec, RelabelSpec

MODEL_JSON = "model.json"


class Admission:
    """Turns what is asked for into a job, or says what is wrong with it and in which field.

    Args:
        ledger: The jobs that a job can refer to.
        store: Where its inputs must be.
        results: The results that a job can refer to.
        output_uri_prefix: Where results go when the caller does not say; None: the caller must.
        has_embedding_service: Whether an index of the embedding service can be used.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: ObjectStore,
        results: Results,
        output_uri_prefix: str | None,
        has_embedding_service: bool,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._results = results
        self._output_uri_prefix = output_uri_prefix
        self._has_embedding_service = has_embedding_service

    async def admit(self, new: NewJob) -> Job:
        """The job, not stored yet.

        Raises:
            EifError: ARGUMENT_INVALID, MANIFEST_INVALID (its name), URI_NOT_ALLOWED, OBJECT_NOT_FOUND, JOB_NOT_FOUND,
                JOB_NOT_SUCCEEDED, QUERY_NOT_FOUND, and those of the store.
        """
        self._check_index(new)
        referred = await self._harmful_ranking(new) or await self._previous_audit(new)
        job = new.as_job(output_uri_prefix=self._output_prefix(new), referred=referred)
        await asyncio.to_thread(self._check_objects, job)
        return job

    def _output_prefix(self, new: NewJob) -> str:
        prefix = new.output_uri_prefix or self._output_uri_prefix
        if prefix is None:
            raise invalid(
                "influence_job.output_uri_prefix",
                "it is required: this server has no default (EIF_INFLUENCE_OUTPUT_URI_PREFIX)",
            )
        return prefix.rstrip("/")

    def _check_index(self, new: NewJob) -> None:
        if not isinstance(new.spec, RelabelSpec) or new.spec.knn_index is None:
            return
        field = "influence_job.relabel.knn_index"
        check_index_name(new.spec.knn_index, field=field)
        if not self._has_embedding_service:
            raise invalid(field, "this server knows no embedding service (EIF_INFLUENCE_EMBEDDING_TARGET)")

    async def _harmful_ranking(self, new: NewJob) -> Artifact | None:
        harmful = new.spec.samples.harmful if isinstance(new.spec, RelabelSpec) else None
        if harmful is None:
            return None
        with _in_field("influence_job.relabel.samples.harmful.job"):
            job = await self._rank_job(harmful)
        with _in_field("influence_job.relabel.samples.harmful.query_id"):
            await asyncio.to_thread(self._results.ranking, job, harmful.query_id or "")
        return ranking_of(job)

    async def _previous_audit(self, new: NewJob) -> Artifact | None:
        if not isinstance(new.spec, AuditSpec) or new.spec.previous_audit is None:
            return None
        field = "influence_job.audit.previous_audit"
        with _in_field(field):
            job = await self._ledger.get(str(parse_job_name(new.spec.previous_audit, field=field)))
            if not isinstance(job.spec, AuditSpec):
                raise ServiceError("ARGUMENT_INVALID", f"{job.name} is a {job.spec.kind} job, not an audit")
            return manifest_of(job)

    async def _rank_job(self, harmful: HarmfulSamples) -> Job:
        name = parse_job_name(harmful.job, field="influence_job.relabel.samples.harmful.job")
        job = await self._ledger.get(str(name))
        if not isinstance(job.spec, RankSpec):
            raise ServiceError(
                "ARGUMENT_INVALID", f"{job.name} is a {job.spec.kind} job; only a rank job has harmful samples"
            )
        require_success(job)
        return job

    def _check_objects(self, job: Job) -> None:
        for field, artifact, uri_of in _inputs(job):
            with _in_field(field):
                self._store.head(uri_of(artifact))
        with _in_field("influence_job.output_uri_prefix"):
            self._check_writable(job)

    def _check_writable(self, job: Job) -> None:
        """Whether the store allows the place; that it can be written to is seen when the job does."""
        try:
            self._store.head(job.manifest_uri)
        except ServiceError as error:
            if error.reason != "OBJECT_NOT_FOUND":
                raise


def _inputs(job: Job) -> Iterator[tuple[str, Artifact, Callable[[Artifact], str]]]:
    """The objects that a job reads first: the field that names each, and how its URI is told from that."""
    spec, prefix = job.spec, f"influence_job.{job.spec.kind}"
    if spec.model is not None:
        yield f"{prefix}.model.uri", spec.model, _model_json
    if isinstance(spec, ExplainSpec):
        yield f"{prefix}.manifest.uri", spec.manifest, _manifest
        return
    yield f"{prefix}.train_manifest.uri", spec.train_manifest, _manifest
    if isinstance(spec, RankSpec | AuditSpec):
        yield f"{prefix}.test_manifest.uri", spec.test_manifest, _manifest
    if isinstance(spec, AuditSpec):
        for name in ("train_embeddings", "test_embeddings", "decisions"):
            artifact: Artifact | None = getattr(spec, name)
            if artifact is not None:
                yield f"{prefix}.{name}.uri", artifact, lambda artifact: artifact.uri


def _model_json(model: Artifact) -> str:
    return model.uri if model.uri.endswith(f"/{MODEL_JSON}") else f"{model.uri.rstrip('/')}/{MODEL_JSON}"


def _manifest(manifest: Artifact) -> str:
    if not manifest.uri.lower().endswith(FORMATS):
        raise ManifestInvalid(
            f"the name of a manifest ends with one of {', '.join(FORMATS)}, unlike {shown(manifest.uri)}",
            uri=manifest.uri,
        )
    return manifest.uri


@contextmanager
def _in_field(field: str) -> Iterator[None]:
    """Say in which field of the request the fault is."""
    try:
        yield
    except EifError as error:
        if error.metadata.get("field") == field:
            raise
        metadata: dict[str, str] = {**error.metadata, "field": field}
        raise ServiceError(error.reason, f"{field}: {error.message}", **metadata) from error

"""Calls that submit jobs."""

from __future__ import annotations

from collections.abc import Sequence

from eif.influence.v1 import job_pb2

from services.client import names
from services.client.influence_calls import InfluenceCalls
from services.client.job_converters import job_of
from services.client.jobs import Job
from services.client.spec_converters import (
    audit_spec,
    create_request,
    explain_spec,
    rank_spec,
    relabel_spec,
    sample_selection,
)
from services.client.specs import (
    Artifact,
    HarmfulSamples,
    Influence,
    JobOptions,
    NeighborSpace,
    Queries,
    RunOptions,
    VoteRule,
)


class SubmissionCalls(InfluenceCalls):
    """Submits jobs of each kind."""

    def rank(
        self,
        *,
        model: Artifact | str,
        train: Artifact | str,
        test: Artifact | str,
        queries: Queries | None = None,
        influence: Influence | None = None,
        top_k: int | None = None,
        run: RunOptions | None = None,
        options: JobOptions | None = None,
    ) -> Job:
        """Submit a job that ranks training samples by their influence on confusions; it runs after the reply.

        Args:
            model: URI of the model bundle.
            train: URI of the manifest of the training samples.
            test: URI of the manifest in which confusions are looked for.
            queries: Which confusions to explain; all confusion pairs by default.
            influence: How influence is computed.
            top_k: Samples kept per query from each end; None is the server's default.
            run: Device, seed and tolerance.
            options: Name, title, place of the results, request id.
        """
        spec = rank_spec(
            model=model,
            train=train,
            test=test,
            queries=queries or Queries(),
            influence=influence or Influence(),
            top_k=top_k,
            run=run or RunOptions(),
        )
        return self._create(job_pb2.InfluenceJob(rank=spec), options or JobOptions())

    def relabel(
        self,
        *,
        train: Artifact | str,
        model: Artifact | str | None = None,
        sample_ids: Sequence[str] = (),
        harmful: HarmfulSamples | None = None,
        space: NeighborSpace = NeighborSpace.PENULTIMATE,
        knn_index: str | None = None,
        num_neighbors: int | None = None,
        vote: VoteRule = VoteRule.SOFT,
        run: RunOptions | None = None,
        options: JobOptions | None = None,
    ) -> Job:
        """Submit a job that suggests labels by a vote of the nearest training samples; it runs after the reply.

        Args:
            train: URI of the manifest of the training samples.
            model: URI of the model bundle; not needed with `knn_index`.
            sample_ids: Only these samples. Excludes `harmful`.
            harmful: Only the most harmful samples of a rank job.
            space: Where neighbours are looked for.
            knn_index: Look for them in this index of the embedding service instead (name or id).
            num_neighbors: Neighbours that vote; None is the median number of samples in a class.
            vote: How they vote.
            run: Device, seed and tolerance.
            options: Name, title, place of the results, request id.
        """
        spec = relabel_spec(
            train=train,
            model=model,
            samples=sample_selection(tuple(sample_ids), harmful, project=self.project),
            space=space,
            knn_index=names.index_name(knn_index, self.project) if knn_index is not None else None,
            num_neighbors=num_neighbors,
            vote=vote,
            run=run or RunOptions(),
        )
        return self._create(job_pb2.InfluenceJob(relabel=spec), options or JobOptions())

    def audit(
        self,
        *,
        train: Artifact | str,
        test: Artifact | str,
        model: Artifact | str | None = None,
        embeddings: tuple[Artifact | str, Artifact | str] | None = None,
        decisions: Artifact | str | None = None,
        previous: Job | str | None = None,
        group_by: Sequence[str] = (),
        influence: Influence | None = None,
        top_k: int | None = None,
        proofs: int | None = None,
        report: bool = True,
        run: RunOptions | None = None,
        options: JobOptions | None = None,
    ) -> Job:
        """Submit an audit of a model and its data; it runs after the reply.

        Args:
            train: URI of the manifest of the training samples.
            test: URI of the manifest of the test samples.
            model: URI of the model bundle.
            embeddings: Without a model: URIs of Parquet files (columns `id` and `embedding`) for train and test.
            decisions: What people have decided before: what they found right is not asked again.
            previous: An earlier audit; the report then shows what is new, fixed and persisting.
            group_by: Columns of the train manifest to roll findings up by.
            influence: How influence is computed.
            top_k: Samples kept per confusion class from each end; None is the server's default.
            proofs: Confusion classes that the proof retrains for; 0 for none, None is the server's default.
            report: Whether to write report.html.
            run: Device, seed and tolerance.
            options: Name, title, place of the results, request id.
        """
        spec = audit_spec(
            train=train,
            test=test,
            model=model,
            embeddings=embeddings,
            decisions=decisions,
            previous_audit=self._name(previous) if previous is not None else "",
            group_by=group_by,
            influence=influence or Influence(),
            top_k=top_k,
            proofs=proofs,
            report=report,
            run=run or RunOptions(),
        )
        return self._create(job_pb2.InfluenceJob(audit=spec), options or JobOptions())

    def explain(
        self,
        *,
        model: Artifact | str,
        manifest: Artifact | str,
        pairs: Sequence[tuple[str, str]],
        run: RunOptions | None = None,
        options: JobOptions | None = None,
    ) -> Job:
        """Submit a job that explains why pairs of samples look alike; it runs after the reply.

        Args:
            model: URI of the model bundle.
            manifest: URI of the manifest that holds both samples of every pair.
            pairs: Sample ids, two a pair.
            run: Device, seed and tolerance.
            options: Name, title, place of the results, request id.
        """
        spec = explain_spec(model=model, manifest=manifest, pairs=pairs, run=run or RunOptions())
        return self._create(job_pb2.InfluenceJob(explain=spec), options or JobOptions())

    def _create(self, job: job_pb2.InfluenceJob, options: JobOptions) -> Job:
        request = create_request(job, options, project=self.project)
        return job_of(self._connection.call(self._stub.CreateInfluenceJob, request))

"""The main job as a pipeline would run it: everything over gRPC, by the client that pipelines use."""

from __future__ import annotations

import time
from dataclasses import dataclass

from rich.progress import Progress as ProgressBar

from services.client.embedding import EmbeddingClient
from services.client.embeddings import EmbeddingServerInfo, Index, Space
from services.client.influence import InfluenceClient
from services.client.jobs import Job
from services.client.rows import QueryPair, RankedSample, RelabelSuggestion
from services.client.specs import HarmfulSamples, RankOrder, Table
from services.demo.publish import Published
from services.demo.stack import Stack

SHOWN_QUERIES = 6
"""Confusions that get their own harmful and helpful samples in the tables and on the page."""
SHOWN_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A confusion and the training samples behind it."""

    pair: QueryPair
    harmful: list[RankedSample]
    helpful: list[RankedSample]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the services answered.

    Attributes:
        confusions: Every confusion pair, closest first.
        explained: The closest ones, with the samples behind them.
        ranking: Every training sample by its harm over all confusions.
        suggestions: A label for every training sample, the most doubtful first.
        harmful_checked: Of the most harmful samples, those whose label their neighbours doubt.
    """

    server: EmbeddingServerInfo
    rank_job: Job
    relabel_job: Job
    confusions: list[QueryPair]
    explained: list[Explained]
    ranking: list[RankedSample]
    suggestions: list[RelabelSuggestion]
    harmful_checked: list[RelabelSuggestion]
    relabel_seconds: float


def run_flow(stack: Stack, published: Published, bars: ProgressBar, *, budget: int) -> Findings:
    """Rank, stream, index, relabel."""
    with InfluenceClient(stack.influence) as influence, EmbeddingClient(stack.embedding) as embedding:
        rank_job = influence.rank(
            model=published.model, train=published.train_manifest, test=published.test_manifest, top_k=SHOWN_SAMPLES
        )
        rank_job = follow(influence, rank_job, bars, "rank")
        confusions = list(influence.results(rank_job, Table.PAIRS))
        ranking = list(influence.stream_ranked_samples(rank_job))
        explained = [_explain(influence, rank_job, pair) for pair in _distinct(confusions)[:SHOWN_QUERIES]]

        started = time.monotonic()
        index = _build_index(embedding, published, bars)
        relabel_job = influence.relabel(train=published.train_manifest, knn_index=index.name)
        relabel_job = follow(influence, relabel_job, bars, "relabel all")
        harmful_job = influence.relabel(
            train=published.train_manifest,
            knn_index=index.name,
            harmful=HarmfulSamples(job=rank_job.name, count=budget),
        )
        harmful_job = follow(influence, harmful_job, bars, "relabel harmful")
        return Findings(
            server=embedding.server_info(),
            rank_job=rank_job,
            relabel_job=relabel_job,
            confusions=confusions,
            explained=explained,
            ranking=ranking,
            suggestions=list(influence.results(relabel_job, Table.RELABEL)),
            harmful_checked=[
                row for row in influence.results(harmful_job, Table.RELABEL) if row.suggested_label != row.label
            ],
            relabel_seconds=time.monotonic() - started,
        )


def follow(client: InfluenceClient, job: Job, bars: ProgressBar, title: str) -> Job:
    """Watch a job with a progress bar; the job once it succeeded. Raises JobFailed or JobCancelled."""
    task = bars.add_task(title, total=None)
    with client.watch(job) as changes:
        for change in changes:
            progress = change.progress
            if progress is not None:
                stage = f"{title}: {progress.stage} ({progress.stages_done + 1}/{progress.stages_total})"
                bars.update(task, description=stage, completed=progress.done, total=progress.total or None)
    done = client.wait(job)
    bars.update(task, description=f"{title}: done", completed=1, total=1)
    return done


def _distinct(confusions: list[QueryPair]) -> list[QueryPair]:
    """Each pair once, although it is often a confusion from both ends."""
    seen: set[frozenset[str]] = set()
    found = []
    for pair in confusions:
        ends = frozenset((pair.sample_id, pair.neighbor_id))
        if ends not in seen:
            seen.add(ends)
            found.append(pair)
    return found


def _explain(client: InfluenceClient, job: Job, pair: QueryPair) -> Explained:
    def head(order: RankOrder) -> list[RankedSample]:
        return list(client.stream_ranked_samples(job, query_id=pair.query_id, order=order, max_rows=SHOWN_SAMPLES))

    return Explained(pair=pair, harmful=head(RankOrder.HARMFUL), helpful=head(RankOrder.HELPFUL))


def _build_index(client: EmbeddingClient, published: Published, bars: ProgressBar) -> Index:
    model = client.load_model("demo", uri=published.onnx)
    index = client.create_index("train", model=model, manifest=published.train_manifest, space=Space.PENULTIMATE)
    task = bars.add_task("index", total=None)
    with client.watch_index(index) as changes:
        for change in changes:
            bars.update(task, completed=change.samples_done, total=change.samples_total or None)
    return client.wait_index(index)

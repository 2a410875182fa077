"""The main job as a pipeline would run it: everything over gRPC, by the client that pipelines use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.client.embedding import EmbeddingClient
from services.client.embeddings import EmbeddingServerInfo, Index, Space
from services.client.errors import EifRpcError
from services.client.influence import InfluenceClient
from services.client.jobs import Job
from services.client.rows import QueryPair, RankedSample, RelabelSuggestion
from services.client.specs import HarmfulSamples, RankOrder, Table
from services.demo.audit import Audited, audit
from services.demo.publish import Published
from services.demo.stack import Stack
from services.demo.steps import Step, Steps
from services.demo.watching import follow

SHOWN_QUERIES = 6
"""Confusions that get their own harmful and helpful samples in the tables and on the page."""
SHOWN_SAMPLES = 8
OUTSIDE = "file:///etc/passwd"


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A confusion and the training samples behind it, each from its end of the ranking."""

    pair: QueryPair
    harmful: list[RankedSample]
    helpful: list[RankedSample]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Something that fails on purpose, and what the services say to it."""

    attempt: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the services answered.

    Attributes:
        confusions: Every confusion pair, closest first.
        explained: The closest ones, with the samples behind them.
        ranking: Every training sample by its influence on all confusions, the most harmful first.
        suggestions: A label for every training sample, the most doubtful first.
        audited: What the audit found.
        harmful_checked: Of the most harmful samples, as many as the budget allows, those given another label.
        rank_seconds: From the submission of the rank job to the last row read.
        relabel_seconds: The same for the index and the relabel jobs.
    """

    server: EmbeddingServerInfo
    rank_job: Job
    relabel_job: Job
    confusions: list[QueryPair]
    explained: list[Explained]
    ranking: list[RankedSample]
    suggestions: list[RelabelSuggestion]
    harmful_checked: list[RelabelSuggestion]
    audited: Audited
    refusals: list[Refusal]
    rank_seconds: float
    relabel_seconds: float

    def figure(self, name: str) -> float:
        """A figure of the rank job, such as `seconds_features`."""
        return self.rank_job.output.figures[name] if self.rank_job.output else 0.0

    @property
    def device(self) -> str:
        """What the rank job computed on."""
        return self.rank_job.output.provenance["device"] if self.rank_job.output else ""


def run_flow(stack: Stack, published: Published, steps: Steps, out: Path, *, budget: int) -> Findings:
    """Rank, stream, index, relabel, audit.

    Args:
        stack: The running system.
        published: What it reads.
        steps: Where progress is shown.
        out: Takes the report of the audit.
        budget: Labels that a review can look at.
    """
    with InfluenceClient(stack.influence) as influence, EmbeddingClient(stack.embedding) as embedding:
        with steps.step("rank the training samples for every confusion") as step:
            rank_job = _rank(influence, published, step)
        with steps.step("stream the ranked ids") as reading:
            confusions = list(influence.results(rank_job, Table.PAIRS))
            ranking = list(influence.stream_ranked_samples(rank_job))
            explained = [_explain(influence, rank_job, pair) for pair in _distinct(confusions)[:SHOWN_QUERIES]]
            reading.note = f"{len(ranking):,} over all confusions, and both ends for {len(explained)} of them"
        with steps.step("index the training samples in the embedding service") as indexing:
            index = _build_index(embedding, published, indexing)
        with steps.step("relabel every sample by its neighbours in the index") as relabelling:
            relabel_job = influence.relabel(train=published.train_manifest, knn_index=index.name)
            relabel_job = follow(influence, relabel_job, relabelling)
            suggestions = list(influence.results(relabel_job, Table.RELABEL))
            relabelling.note = f"{_doubted(suggestions):,} of {len(suggestions):,} get another label"
        with steps.step("relabel the most harmful samples only") as checking:
            harmful = _relabel_harmful(influence, published, index, rank_job, checking, budget=budget)
            checking.note = f"{_doubted(harmful):,} of {len(harmful):,} get another label"
        audited = audit(influence, published, steps, out)
        with steps.step("ask for what must be refused") as refusing:
            refusals = _refusals(influence, embedding, published)
            refusing.note = ", ".join(refusal.reason for refusal in refusals)
        return Findings(
            server=embedding.server_info(),
            rank_job=rank_job,
            relabel_job=relabel_job,
            confusions=confusions,
            explained=explained,
            ranking=ranking,
            suggestions=suggestions,
            harmful_checked=[row for row in harmful if row.suggested_label != row.label],
            audited=audited,
            refusals=refusals,
            rank_seconds=step.seconds + reading.seconds,
            relabel_seconds=indexing.seconds + relabelling.seconds + checking.seconds,
        )


def _rank(client: InfluenceClient, published: Published, step: Step) -> Job:
    job = client.rank(
        model=published.model, train=published.train_manifest, test=published.test_manifest, top_k=SHOWN_SAMPLES
    )
    done = follow(client, job, step)
    step.note = f"{done.output.figures['confusion_pairs']:.0f} confusion pairs" if done.output else ""
    return done


def _relabel_harmful(
    client: InfluenceClient, published: Published, index: Index, rank_job: Job, step: Step, *, budget: int
) -> list[RelabelSuggestion]:
    harmful = HarmfulSamples(job=rank_job.name, count=budget)
    job = client.relabel(train=published.train_manifest, knn_index=index.name, harmful=harmful)
    return list(client.results(follow(client, job, step), Table.RELABEL))


def _doubted(rows: list[RelabelSuggestion]) -> int:
    return sum(row.suggested_label != row.label for row in rows)


def _distinct(confusions: list[QueryPair]) -> list[QueryPair]:
    """Each pair once, although it is often a confusion from both ends."""
    found: dict[frozenset[str], QueryPair] = {}
    for pair in confusions:
        found.setdefault(frozenset((pair.sample_id, pair.neighbor_id)), pair)
    return list(found.values())


def _explain(client: InfluenceClient, job: Job, pair: QueryPair) -> Explained:
    def head(order: RankOrder) -> list[RankedSample]:
        return list(client.stream_ranked_samples(job, query_id=pair.query_id, order=order, max_rows=SHOWN_SAMPLES))

    return Explained(pair=pair, harmful=head(RankOrder.HARMFUL), helpful=head(RankOrder.HELPFUL))


def _build_index(client: EmbeddingClient, published: Published, step: Step) -> Index:
    model = client.load_model("demo", uri=published.onnx)
    index = client.create_index("train", model=model, manifest=published.train_manifest, space=Space.PENULTIMATE)
    with client.watch_index(index) as changes:
        for change in changes:
            step.report(change.samples_done, change.samples_total, unit="samples")
    step.note = f"{model.feature_dim} dimensions, on {model.execution_provider}"
    return client.wait_index(index)


def _refusals(influence: InfluenceClient, embedding: EmbeddingClient, published: Published) -> list[Refusal]:
    """Bad input gets a reason, and the services go on."""

    def broken_manifest() -> None:
        embedding.wait_index(embedding.create_index("broken", model="demo", manifest=published.broken_manifest))

    def outside_the_store() -> None:
        influence.rank(model=OUTSIDE, train=published.train_manifest, test=published.test_manifest)

    attempts: dict[str, Callable[[], None]] = {
        "index a manifest whose second line has no label": broken_manifest,
        f"rank with the model {OUTSIDE}": outside_the_store,
    }
    refusals = []
    for attempt, call in attempts.items():
        try:
            call()
        except EifRpcError as error:
            refusals.append(Refusal(attempt=attempt, reason=error.reason, message=error.message))
    return refusals

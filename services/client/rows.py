"""Rows of a job's results, and the chunks in which a ranking is streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Effect(StrEnum):
    """What a training sample does to a confusion."""

    HARMFUL = "harmful"
    """Score above 0: learning it made the confusion worse."""
    HELPFUL = "helpful"
    """Score below 0: learning it held the confusion back."""
    NEUTRAL = "neutral"


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedSample:
    """A training sample in a ranking.

    Attributes:
        query_id: The query; `all` is the sum over all queries.
        rank: From 1, counted in the order asked for.
        sample_id: The sample.
        label: Its label in the manifest.
        score: Influence (rank job), or doubt in the label (relabel job).
        suggested_label: The label it should have (relabel job only).
        suggested_probability: The share of the vote for that label (relabel job only).
    """

    query_id: str
    rank: int
    sample_id: str
    label: str
    score: float
    suggested_label: str | None = None
    suggested_probability: float | None = None

    @property
    def effect(self) -> Effect | None:
        """The sign of the influence in words; None in the ranking of a relabel job."""
        if self.suggested_label is not None:
            return None
        if self.score == 0:
            return Effect.NEUTRAL
        return Effect.HARMFUL if self.score > 0 else Effect.HELPFUL


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedChunk:
    """Part of a ranking by columns: entry i of each belongs to rank `first_rank + i`.

    Attributes:
        suggested_labels: Of a relabel job; else empty.
        suggested_probabilities: Of a relabel job; else empty.
        resume_token: Starts another stream right after this chunk.
        total_rows: Rows of the whole ranking.
    """

    query_id: str
    first_rank: int
    sample_ids: tuple[str, ...]
    scores: tuple[float, ...]
    labels: tuple[str, ...]
    suggested_labels: tuple[str, ...]
    suggested_probabilities: tuple[float, ...]
    resume_token: str
    total_rows: int

    def __len__(self) -> int:
        return len(self.sample_ids)

    def rows(self) -> Iterator[RankedSample]:
        """The chunk row by row."""
        nothing = (None,) * len(self)
        columns = zip(
            self.sample_ids,
            self.labels,
            self.scores,
            self.suggested_labels or nothing,
            self.suggested_probabilities or nothing,
            strict=True,
        )
        for rank, (sample_id, label, score, suggested, probability) in enumerate(columns, self.first_rank):
            yield RankedSample(
                query_id=self.query_id,
                rank=rank,
                sample_id=sample_id,
                label=label,
                score=score,
                suggested_label=suggested,
                suggested_probability=probability,
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Voter:
    """A neighbour that voted."""

    sample_id: str
    label: str
    distance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RelabelSuggestion:
    """A suggested label, the most doubtful sample first.

    Attributes:
        suggested_probability: The share of the vote for the suggested label, in [0, 1].
        label_probability: The share of the vote for the label in the manifest, in [0, 1].
        score: 1 - label_probability.
        neighbors: Nearest first.
    """

    rank: int
    sample_id: str
    label: str
    suggested_label: str
    suggested_probability: float
    label_probability: float
    score: float
    neighbors: tuple[Voter, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryPair:
    """One pair of a query; a group has one row for each of its pairs.

    Attributes:
        kind: `confusion`, `mis_similar` or `group`.
        distance: Distance of the pair under the model.
    """

    query_id: str
    kind: str
    sample_id: str
    neighbor_id: str
    label: str
    neighbor_label: str
    distance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class QuarantinedSample:
    """A sample that could not be read: `split` is `train` or `test`, `reason` is frozen, `message` is for people."""

    sample_id: str
    uri: str
    split: str
    reason: str
    message: str


Row = RankedSample | RelabelSuggestion | QueryPair | QuarantinedSample

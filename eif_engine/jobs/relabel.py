"""Suggest labels for training samples by the vote of their neighbours (algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.config import RelabelConfig, VoteRule
from eif_engine.functional.neighbors import nearest
from eif_engine.functional.relabel import median_shots, vote
from eif_engine.types import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class NeighborVote:
    """A neighbour that voted: its id, its label, and its squared distance in [0, 4]."""

    sample_id: str
    label: str
    distance: float


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """The label a sample should have.

    Attributes:
        sample_id: The sample.
        label: Its label now.
        suggested_label: The label its neighbours vote for.
        suggested_probability: The share of the vote for it, in [0, 1].
        label_probability: The share of the vote for the label now, in [0, 1].
        neighbors: Who voted, nearest first.
    """

    sample_id: str
    label: str
    suggested_label: str
    suggested_probability: float
    label_probability: float
    neighbors: tuple[NeighborVote, ...]

    @property
    def score(self) -> float:
        """Doubt in the label: 1 - label_probability."""
        return 1.0 - self.label_probability


def suggest(
    *,
    vectors_NF: Tensor,
    labels: Sequence[str],
    sample_ids: Sequence[str],
    rows: Sequence[int] | None = None,
    config: RelabelConfig,
    progress: Progress = no_progress,
) -> list[Suggestion]:
    """Suggestions for `rows` (None: every row), in the order of `rank_suggestions`.

    Args:
        vectors_NF: Vectors of all training samples; L2-normalised here.
        labels: Their labels.
        sample_ids: Their ids; a sample never votes for itself.
        rows: Samples that get a suggestion.
        config: How many neighbours, and how they vote.
        progress: Called after each block.
    """
    wanted_Q = torch.arange(len(labels)) if rows is None else torch.tensor(rows, dtype=torch.int64)
    wanted_Q = wanted_Q.to(vectors_NF.device)
    count = config.num_neighbors or median_shots(labels)
    found: list[Suggestion] = []
    if len(labels) == 1:
        found = [decide(sample_ids[0], labels[0], (), config.vote) for _ in wanted_Q]
    else:
        for rows_B, neighbor_BK, distance_BK in nearest(vectors_NF, wanted_Q, count):
            for row, neighbors, distances in zip(
                rows_B.tolist(), neighbor_BK.tolist(), distance_BK.tolist(), strict=True
            ):
                voters = [
                    NeighborVote(sample_id=sample_ids[other], label=labels[other], distance=distance)
                    for other, distance in zip(neighbors, distances, strict=True)
                ]
                found.append(decide(sample_ids[row], labels[row], voters, config.vote))
            progress(len(found), len(wanted_Q))
    return rank_suggestions(found)


def decide(sample_id: str, label: str, neighbors: Sequence[NeighborVote], rule: VoteRule) -> Suggestion:
    """One suggestion from neighbours, wherever they were found."""
    outcome = vote(
        [neighbor.label for neighbor in neighbors],
        [neighbor.distance for neighbor in neighbors],
        own_label=label,
        rule=rule,
    )
    return Suggestion(
        sample_id=sample_id,
        label=label,
        suggested_label=outcome.label,
        suggested_probability=outcome.probability,
        label_probability=outcome.own_probability,
        neighbors=tuple(neighbors),
    )


def rank_suggestions(suggestions: Sequence[Suggestion]) -> list[Suggestion]:
    """The total order: most doubtful label first, then by sample id."""
    return sorted(suggestions, key=lambda suggestion: (-suggestion.score, suggestion.sample_id))

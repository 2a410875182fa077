"""Evidence about planted canaries: what a wrong label looks like in this data, under this model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.functional.canaries import Canaries, class_means, draw_ranks, plant, similarity_ranks
from eif_engine.functional.draws import Draws
from eif_engine.functional.pull import Pull
from eif_engine.issue_config import IssueConfig
from eif_engine.jobs.issue_evidence import Asked, Evidence, Known, Pulls, Spaces, gather
from eif_engine.types import Progress

MATCH_ROUNDS, MEAN_ROUNDS = 10, 5
"""Times that the pulls are corrected at most, and how many of the last are averaged: where suspects are few the pulls
have a long way to go, and each round tells where they are by few canaries."""

MATCH_CANARIES, CANARIES = 120, 200
"""Canaries that tell the pulls in a round, and that calibrate: small data gets more copies than asked for ..."""

MOST_COPIES, MOST_MATCH_COPIES = 20, 3
"""... but not more than so many, and in a round."""

MOST_CANARIES = 2_000
"""In one copy: more tell the same, and each has its neighbours looked for."""

NO_PULLS = Pulls(Pull(), Pull())


@dataclass(frozen=True)
class Planted:
    """The canaries of all copies.

    Attributes:
        rows_B: Their rows.
        given_B: The labels they had.
        evidence: About their wrong labels.
    """

    rows_B: Tensor
    given_B: Tensor
    evidence: Evidence


class Planter:
    """Plants canaries in copies of the given labels and gathers the evidence about them.

    Args:
        spaces: The model's spaces.
        labels_N: Given labels.
        num_classes: C.
        evidence: About the given labels, where wrong ones pull nothing.
        config: How many canaries.
        draws: Of the samples.
    """

    def __init__(
        self,
        spaces: Spaces,
        labels_N: Tensor,
        num_classes: int,
        *,
        evidence: Evidence,
        config: IssueConfig,
        draws: Draws,
    ) -> None:
        self._spaces, self._labels_N, self._config, self._draws = spaces, labels_N, config, draws
        trust_N = evidence.trust_N
        self._known = Known.of(spaces, labels_N, evidence, config)
        self._upper_CF, _ = class_means(spaces.penultimate.v_NF, labels_N, trust_N, num_classes)
        self._lower_CD, _ = class_means(spaces.embedding.v_NF, labels_N, trust_N, num_classes)
        self._count_C = torch.bincount(labels_N, minlength=num_classes)
        shows_S, given_S = evidence.candidate_NJ[evidence.suspect_N, 0], labels_N[evidence.suspect_N]
        self._suspect_ranks_S = similarity_ranks(self._upper_CF, self._count_C, shows_S, given_S)

    def matched(self, seen: Pulls) -> Pulls:
        """The pulls with which suspected canaries lie where suspects were seen to lie.

        Those pulled far are not suspected, and some suspects are right, so what is seen is not what there is; canaries
        show by how much (indirect inference).
        """
        rounds = [seen]
        while len(rounds) <= MATCH_ROUNDS:
            number = min(self._copies(MATCH_CANARIES), MOST_MATCH_COPIES)
            copies = [self._copy(rounds[-1], NO_PULLS, self._known) for _ in range(number)]
            found = Evidence.joined([copy.evidence for copy in copies]).pulls()
            if found is None:
                break
            rounds.append(rounds[-1].corrected(seen, found))
            if rounds[-1].near(rounds[-2]):
                break
        # The first ones are on their way; the later ones differ by chance alone.
        return Pulls.mean(rounds[-MEAN_ROUNDS:] if len(rounds) > 2 * MEAN_ROUNDS else rounds[-1:])

    def plant(self, pulls: Pulls, evidence: Evidence, progress: Progress) -> Planted:
        """Every copy, one after the other; `evidence` is that about the given labels with these pulls."""
        found: list[Planted] = []
        known = (
            self._known
            if evidence is self._known.evidence
            else Known.of(self._spaces, self._labels_N, evidence, self._config)
        )
        copies = max(self._config.canary_copies, self._copies(CANARIES))
        for copy in range(copies):
            found.append(self._copy(pulls, pulls, known))
            progress(copy + 1, copies)
        return Planted(
            torch.cat([planted.rows_B for planted in found]),
            torch.cat([planted.given_B for planted in found]),
            Evidence.joined([planted.evidence for planted in found]),
        )

    def _copy(self, moved_by: Pulls, assumed: Pulls, known: Known) -> Planted:
        config = self._config
        rows_B = self._draws.rows(self._canaries_per_copy())
        classes = int((self._count_C > 0).sum())
        ranks_B = draw_ranks(self._suspect_ranks_S, rows_B, classes=classes, draws=self._draws)
        canaries = plant(self._labels_N, rows_B, ranks_B, self._upper_CF, self._count_C)
        moved = self._moved(canaries, moved_by)
        flipped_N = canaries.flipped(self._labels_N)
        evidence = gather(moved, flipped_N, assumed, config, asked=Asked(canaries.rows_B, known))
        return Planted(canaries.rows_B, canaries.given_B, evidence)

    def _canaries_per_copy(self) -> int:
        return min(MOST_CANARIES, max(1, round(self._config.canary_fraction * len(self._labels_N))))

    def _copies(self, canaries: int) -> int:
        """Copies that hold so many canaries."""
        return min(MOST_COPIES, math.ceil(canaries / self._canaries_per_copy()))

    def _moved(self, canaries: Canaries, pulls: Pulls) -> Spaces:
        spaces = self._spaces
        upper_B, lower_B = (
            pull.of(self._draws.normal(canaries.rows_B)).to(spaces.penultimate.v_NF.device)
            for pull in (pulls.penultimate, pulls.embedding)
        )
        return spaces.moved(
            canaries.moved(spaces.penultimate.v_NF, self._upper_CF, upper_B),
            canaries.moved(spaces.embedding.v_NF, self._lower_CD, lower_B),
            canaries.rows_B,
            self._config,
        )

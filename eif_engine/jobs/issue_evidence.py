"""Evidence about given labels: from neighbours and from a cross-fitted probe, in penultimate and in embedding space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from eif_engine.functional.agreement import FLOOR, Neighborhood, disagreement, neighborhood, vote_shares
from eif_engine.functional.draws import Draws
from eif_engine.functional.principal import PrincipalView
from eif_engine.functional.probe import Change, FoldSums, folds
from eif_engine.functional.probe_view import ProbeSettings, ProbeView, choose_settings, view
from eif_engine.functional.pull import Pull, estimate_pull
from eif_engine.issue_config import IssueConfig

PART_WEIGHTS = {
    "neighbors_penultimate": 1.0,
    "neighbors_embedding": 1.0,
    "probe_penultimate": 8.0,
    "probe_embedding": 1.0,
}
"""Parts of the score that can be had for a canary too, in the order of `Evidence.doubt_NP`, and how much a standard
deviation of each counts (docs/results/label-issues.md has the alternatives)."""

ENOUGH_SUSPECTS = 10
"""Fewer do not tell how far wrong labels pull."""

SAME_PULL = 0.002
"""Pulls that differ by less move no finding."""

NO_EVIDENCE = 0.0
"""Log odds against the label of a sample that is the only one of its class: nothing speaks for the label or against."""

SURE, POSSIBLE = 0.8, 0.5
"""How probable it must be for a suspect that its label is wrong and its best candidate right; less where few are."""

FEW = 0.02
"""Share of the samples below which suspects are few."""


@dataclass(frozen=True)
class Space:
    """One space of vectors.

    Attributes:
        v_NF: The vectors as given.
        view: What the probe sees of them.
        near: Neighbours of every row.
    """

    v_NF: Tensor
    view: PrincipalView
    near: Neighborhood

    @cached_property
    def probe_NK(self) -> Tensor:
        """The vectors for the probe."""
        return self.view.of(self.v_NF)

    @classmethod
    def of(cls, v_NF: Tensor, config: IssueConfig, near: Neighborhood | None = None) -> Space:
        """The space of vectors; their neighbours are looked for unless given."""
        if near is None:
            rows_N = torch.arange(len(v_NF), device=v_NF.device)
            near = neighborhood(v_NF, rows_N, config.num_neighbors, block_bytes=config.block_bytes)
        return cls(v_NF, PrincipalView.fitted(v_NF), near.nearest(config.num_neighbors))

    def moved(self, v_NF: Tensor, rows_B: Tensor, config: IssueConfig) -> Space:
        """The space after some rows have moved; only their own neighbours are looked for again."""
        near = neighborhood(v_NF, rows_B, config.num_neighbors, block_bytes=config.block_bytes)
        return Space(v_NF, self.view, self.near.replaced(rows_B, near))


@dataclass(frozen=True)
class Spaces:
    """Both spaces of a model, and how the probe is fitted in each."""

    penultimate: Space
    embedding: Space
    penultimate_probe: ProbeSettings
    embedding_probe: ProbeSettings

    @classmethod
    def of(
        cls,
        x_NF: Tensor,
        z_ND: Tensor,
        labels_N: Tensor,
        num_classes: int,
        config: IssueConfig,
        *,
        draws: Draws,
        near: Neighborhood | None = None,
        embedding_near: Neighborhood | None = None,
        threads: int = 1,
    ) -> Spaces:
        """The spaces of features and embeddings, with settings that suit the given labels; one space if they are one.

        Args:
            x_NF: Features.
            z_ND: Embeddings.
            labels_N: Given labels.
            num_classes: C.
            config: How many neighbours, and how the probe is fitted.
            draws: Of the samples, for the folds of the probe.
            near: Neighbours by features, where they are known already.
            embedding_near: The same by embeddings.
            threads: Folds of the probe at a time, each on one core.
        """
        penultimate = Space.of(x_NF, config, near)
        embedding = penultimate if z_ND is x_NF else Space.of(z_ND, config, embedding_near)
        parts = folds(draws, config.num_folds)
        trust_N = neighbor_trust(penultimate, labels_N, config)
        distinct = (penultimate,) if embedding is penultimate else (penultimate, embedding)
        settings = [
            choose_settings(
                space.probe_NK,
                labels_N,
                trust_N,
                num_classes=num_classes,
                parts=parts,
                shrinkages=config.shrinkages,
                block_bytes=config.block_bytes,
                threads=threads,
            )
            for space in distinct
        ]
        return cls(penultimate, embedding, settings[0], settings[-1])

    def moved(self, x_NF: Tensor, z_ND: Tensor, rows_B: Tensor, config: IssueConfig) -> Spaces:
        """The spaces after some rows have moved."""
        return Spaces(
            self.penultimate.moved(x_NF, rows_B, config),
            self.embedding.moved(z_ND, rows_B, config),
            self.penultimate_probe,
            self.embedding_probe,
        )


@dataclass(frozen=True)
class Pulls:
    """How far wrong labels pull their samples in each space."""

    penultimate: Pull
    embedding: Pull

    def corrected(self, seen: Pulls, found: Pulls) -> Pulls:
        """Changed by what was found in canaries planted with these falls short of what is seen in suspects."""
        return Pulls(
            self.penultimate.corrected(seen.penultimate, found.penultimate),
            self.embedding.corrected(seen.embedding, found.embedding),
        )

    def near(self, other: Pulls) -> bool:
        """Whether the two are the same for all that matters."""
        pairs = (self.penultimate, other.penultimate), (self.embedding, other.embedding)
        return all(abs(one.mean - two.mean) < SAME_PULL for one, two in pairs)

    @classmethod
    def mean(cls, several: Sequence[Pulls]) -> Pulls:
        """Of some, at least one."""
        return cls(
            Pull.mean_of([pulls.penultimate for pulls in several]), Pull.mean_of([pulls.embedding for pulls in several])
        )


@dataclass(frozen=True)
class Evidence:
    """About every sample.

    Attributes:
        doubt_NP: Log odds against the given label, one column for each of PART_WEIGHTS.
        candidate_NJ: Other labels, the penultimate probe's best first.
        choice_NJP: Evidence for each candidate, in the order of PART_WEIGHTS.
        trust_NR: The penultimate probe's trust in the given label after each round of pruning, in [0, 1].
        certainty_N: How sure it is that the label is wrong and the best candidate right, in [0, 1].
        suspect_N: Whether it holds the label for wrong, and one candidate for right.
        along_NS: In each space, `(v - mu_c).(mu_b - mu_c)` of the best candidate c and the given label b.
        length_NS: In each space, `|mu_b - mu_c|^2`.
    """

    doubt_NP: Tensor
    candidate_NJ: Tensor
    choice_NJP: Tensor
    trust_NR: Tensor
    certainty_N: Tensor
    suspect_N: Tensor
    along_NS: Tensor
    length_NS: Tensor

    @property
    def trust_N(self) -> Tensor:
        """The trust after the last round."""
        return self.trust_NR[:, -1]

    @classmethod
    def joined(cls, parts: Sequence[Evidence]) -> Evidence:
        """One after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def pulls(self) -> Pulls | None:
        """How far the suspects were pulled; None where there are too few to tell."""
        told_N = self.suspect_N & (self.length_NS > 0).all(dim=1)
        along_SS, length_SS = self.along_NS[told_N], self.length_NS[told_N]
        if len(along_SS) < ENOUGH_SUSPECTS:
            return None
        penultimate, embedding = (estimate_pull(along_SS[:, s], length_SS[:, s]) for s in range(2))
        return Pulls(penultimate, embedding)


@dataclass(frozen=True)
class Known:
    """The evidence about all given labels, and what that about few other labels is made of.

    Attributes:
        spaces: Before any sample moved.
        labels_N: Given labels.
        evidence: About them.
        trust_NR: Trust before each round of pruning and after the last.
        sums: Of the probe, in penultimate space for each round and in embedding space.
        fold_N: The fold of each sample.
    """

    spaces: Spaces
    labels_N: Tensor
    evidence: Evidence
    trust_NR: Tensor
    sums: tuple[FoldSums, ...]
    fold_N: Tensor

    @classmethod
    def of(cls, spaces: Spaces, labels_N: Tensor, evidence: Evidence, config: IssueConfig) -> Known:
        """What is known with the evidence about given labels."""
        first_N = neighbor_trust(spaces.penultimate, labels_N, config)
        trust_NR = torch.cat((first_N[:, None], evidence.trust_NR), dim=1)
        settings = [spaces.penultimate_probe] * config.prune_rounds + [spaces.embedding_probe]
        v = [spaces.penultimate.probe_NK] * config.prune_rounds + [spaces.embedding.probe_NK]
        fold_N = torch.empty_like(labels_N)
        for fold, rows in enumerate(settings[0].parts):
            fold_N[rows.to(fold_N.device)] = fold
        sums = tuple(
            FoldSums.of(v_NK, labels_N, trust_N, each.num_classes, parts=each.parts, threads=each.threads)
            for v_NK, trust_N, each in zip(v, trust_NR.unbind(1), settings, strict=True)
        )
        return cls(spaces, labels_N, evidence, trust_NR, sums, fold_N)


@dataclass(frozen=True)
class Asked:
    """Some samples, whose labels and vectors alone differ from those that there is evidence about already.

    Attributes:
        rows_B: Their rows, ascending or not.
        known: About all samples; trust in the labels of the others is taken from it.
    """

    rows_B: Tensor
    known: Known

    def judged(self, labels_N: Tensor) -> Tensor:
        """Whether each sample is among them (N,)."""
        return torch.zeros_like(labels_N, dtype=torch.bool).index_fill(0, self.rows_B, value=True)

    def among(self, known_N: Tensor, found_B: Tensor) -> Tensor:
        """What is known of all samples, with what was found of these."""
        return known_N.index_copy(0, self.rows_B, found_B)

    def sums(self, number: int, spaces: Spaces, labels_N: Tensor, trust_N: Tensor) -> FoldSums:
        """The sums of the probe in a round, in the last one in embedding space."""
        known, rows_B = self.known, self.rows_B
        lower = number == len(known.sums) - 1
        before, now = (
            (each.embedding if lower else each.penultimate).probe_NK[rows_B] for each in (known.spaces, spaces)
        )
        change = Change.of(
            (before, known.labels_N[rows_B], known.trust_NR[rows_B, number]),
            (now, labels_N[rows_B], trust_N[rows_B]),
            known.fold_N[rows_B],
            num_classes=spaces.penultimate_probe.num_classes,
        )
        return known.sums[number].after(change)


def gather(
    spaces: Spaces, labels_N: Tensor, pulls: Pulls, config: IssueConfig, *, asked: Asked | None = None
) -> Evidence:
    """All evidence about given labels; the penultimate probe is fitted again with suspects weighed down.

    Args:
        spaces: The model's spaces.
        labels_N: Given labels.
        pulls: Of wrong labels.
        config: How.
        asked: Samples that the evidence is about, in their order; None means all.
    """
    rows_B = torch.arange(len(labels_N), device=labels_N.device) if asked is None else asked.rows_B
    upper, trust_NR = _pruned(spaces, labels_N, pulls, config, asked)
    lower = view(
        spaces.embedding.probe_NK,
        labels_N,
        trust_NR[:, -1],
        spaces.embedding_probe,
        pull=pulls.embedding,
        candidates=upper.candidate_NJ,
        judged_N=None if asked is None else asked.judged(labels_N),
        sums=None if asked is None else asked.sums(config.prune_rounds, spaces, labels_N, trust_NR[:, -1]),
    )
    upper, lower = upper.take(rows_B), lower.take(rows_B)
    own_B, trust_BR = labels_N[rows_B], trust_NR[rows_B]
    asked_BJ = torch.cat((own_B[:, None], upper.candidate_NJ), dim=1)
    votes = [
        vote_shares(space.near.take(rows_B), labels_N, trust_NR[:, -1], asked_BJ, temperature=config.vote_temperature)
        for space in (spaces.penultimate, spaces.embedding)
    ]
    doubts = [disagreement(share_BJ[:, 0]) for share_BJ in votes] + [upper.log_odds_N, lower.log_odds_N]
    alone_BP = torch.bincount(labels_N)[own_B, None] < 2
    choices = [torch.log(share_BJ[:, 1:] + FLOOR) for share_BJ in votes] + [upper.score_NJ, lower.score_NJ]
    certainty_B = torch.minimum(1 - trust_BR[:, -1], torch.softmax(upper.score_NJ, dim=1)[:, 0])
    certainty_N = certainty_B if asked is None else asked.among(asked.known.evidence.certainty_N, certainty_B)
    return Evidence(
        doubt_NP=torch.stack(doubts, dim=1).masked_fill(alone_BP, NO_EVIDENCE),
        candidate_NJ=upper.candidate_NJ,
        choice_NJP=torch.stack(choices, dim=2),
        trust_NR=trust_BR,
        certainty_N=certainty_B,
        suspect_N=_suspects(certainty_N)[rows_B],
        along_NS=torch.stack((upper.along_N, lower.along_N), dim=1),
        length_NS=torch.stack((upper.length_N, lower.length_N), dim=1),
    )


def _suspects(certainty_N: Tensor) -> Tensor:
    """The sure suspects (N,); where they are few, as many of the possible ones as it takes, the surest first."""
    wanted = max(1, round(FEW * len(certainty_N)))
    edge = min(SURE, float(certainty_N.topk(min(wanted, len(certainty_N))).values[-1]))
    return certainty_N >= max(edge, POSSIBLE)


def neighbor_trust(space: Space, labels_N: Tensor, config: IssueConfig, rows_B: Tensor | None = None) -> Tensor:
    """Share of the neighbours' vote for the given label, of some samples or all: trust before any probe is fitted."""
    everyone_N = torch.ones(len(labels_N), dtype=torch.float64, device=labels_N.device)
    near, own_B = (space.near, labels_N) if rows_B is None else (space.near.take(rows_B), labels_N[rows_B])
    return vote_shares(near, labels_N, everyone_N, own_B[:, None], temperature=config.vote_temperature).squeeze(1)


def _pruned(
    spaces: Spaces, labels_N: Tensor, pulls: Pulls, config: IssueConfig, asked: Asked | None
) -> tuple[ProbeView, Tensor]:
    """What the probe of the last round says, and the trust (N, R) after each round."""
    settings = spaces.penultimate_probe
    trust_N = neighbor_trust(spaces.penultimate, labels_N, config, None if asked is None else asked.rows_B)
    if asked is not None:
        trust_N = asked.among(asked.known.trust_NR[:, 0], trust_N)
    candidates = min(config.candidates, settings.num_classes - 1)
    rounds: list[Tensor] = []
    for number in range(config.prune_rounds):
        seen = view(
            spaces.penultimate.probe_NK,
            labels_N,
            trust_N,
            settings,
            pull=pulls.penultimate,
            candidates=candidates,
            judged_N=None if asked is None else asked.judged(labels_N),
            sums=None if asked is None else asked.sums(number, spaces, labels_N, trust_N),
        )
        trust_N = seen.trust()
        if asked is not None:
            trust_N = asked.among(asked.known.trust_NR[:, number + 1], trust_N[asked.rows_B])
        rounds.append(trust_N)
    return seen, torch.stack(rounds, dim=1)

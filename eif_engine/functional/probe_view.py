"""What a cross-fitted probe says of every sample: doubt in its label, other labels, and its place between the two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from eif_engine.functional.neighbors import BLOCK_BYTES
from eif_engine.functional.probe import FoldSums, HeldOut, over_folds
from eif_engine.functional.pull import Pull

PRIOR_WRONG = 0.1
"""Share of wrong labels assumed before anything is known; calibration does not use it."""

TEMPERATURES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
"""Powers of the likelihood that are tried: held-out Gaussians in many dimensions are too sure of themselves."""

TELLING_ROWS = 20_000
"""Rows whose held-out likelihood decides the settings; more tell the same."""


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """How a probe is fitted.

    Attributes:
        num_classes: C.
        parts: Rows of each fold.
        shrinkage: Of the within-class covariance.
        temperature: Power of the likelihood.
        block_bytes: Memory of a block.
        threads: Folds at a time, each on one core.
    """

    num_classes: int
    parts: list[Tensor]
    shrinkage: float
    temperature: float
    block_bytes: int = BLOCK_BYTES
    threads: int = 1


@dataclass(frozen=True)
class ProbeView:
    """Of every sample.

    Attributes:
        log_odds_N: Against the given label.
        candidate_NJ: The most likely other labels, best first.
        score_NJ: Tempered log likelihoods of the candidates; minus infinity for a class without samples.
        along_N: Inner product of `v - mu_c` and `mu_b - mu_c`, whitened, c the best candidate and b the given label.
        length_N: `|mu_b - mu_c|^2`, whitened.
    """

    log_odds_N: Tensor
    candidate_NJ: Tensor
    score_NJ: Tensor
    along_N: Tensor
    length_N: Tensor

    def take(self, rows_B: Tensor) -> ProbeView:
        """Of some samples."""
        return ProbeView(*(getattr(self, part.name)[rows_B] for part in fields(self)))

    def trust(self) -> Tensor:
        """P(given label is right) (N,) under the assumed share of wrong ones."""
        return torch.sigmoid(math.log((1 - PRIOR_WRONG) / PRIOR_WRONG) - self.log_odds_N)


def view(
    v_NF: Tensor,
    labels_N: Tensor,
    trust_N: Tensor,
    settings: ProbeSettings,
    *,
    pull: Pull,
    candidates: int | Tensor,
    judged_N: Tensor | None = None,
    sums: FoldSums | None = None,
) -> ProbeView:
    """Judge every sample by a probe that has not seen it.

    Doubt compares the given label with others as if wrong labels had pulled nothing, because with a pull the other
    classes explain much of what lies near the given one; candidates are compared with the pull.

    Args:
        v_NF: Vectors.
        labels_N: Given labels.
        trust_N: Trust in them.
        settings: How the probe is fitted.
        pull: Of wrong labels.
        candidates: Other labels wanted of each sample, or which (N, J).
        judged_N: Samples that are judged, what is said of others is 0; None means all.
        sums: Of these vectors, labels and trust by fold, where they are known already.
    """
    N, device = len(v_NF), v_NF.device
    J = candidates if isinstance(candidates, int) else candidates.shape[1]
    log_odds_N, along_N, length_N = (torch.zeros(N, dtype=torch.float64, device=device) for _ in range(3))
    candidate_NJ = torch.zeros(N, J, dtype=torch.int64, device=device)
    score_NJ = torch.zeros(N, J, dtype=torch.float64, device=device)

    def judge(fold: Iterator[HeldOut]) -> None:
        for held in fold:
            rows_B, own_BL = held.rows_B, held.labels_B[:, None]
            others_BC = held.log_likelihood(Pull()).mul_(settings.temperature)
            own_B = others_BC.gather(1, own_BL).squeeze(1)
            others_BC.scatter_(1, own_BL, -torch.inf)
            log_odds_N[rows_B] = (torch.logsumexp(others_BC, dim=1) - own_B).double()
            pulled_BC = others_BC
            if pull != Pull():
                pulled_BC = held.log_likelihood(pull).mul_(settings.temperature).scatter_(1, own_BL, -torch.inf)
            wanted_BJ = pulled_BC.topk(J, dim=1).indices if isinstance(candidates, int) else candidates[rows_B]
            candidate_NJ[rows_B], score_NJ[rows_B] = wanted_BJ, pulled_BC.gather(1, wanted_BJ).double()
            along_B, length_B = held.position(wanted_BJ[:, 0])
            along_N[rows_B], length_N[rows_B] = along_B.double(), length_B.double()

    over_folds(
        judge,
        v_NF,
        labels_N,
        trust_N,
        settings.num_classes,
        parts=settings.parts,
        shrinkage=settings.shrinkage,
        judged_N=judged_N,
        sums=sums,
        block_bytes=settings.block_bytes,
        threads=settings.threads,
    )
    return ProbeView(log_odds_N.clamp(-1e6, 1e6), candidate_NJ, score_NJ, along_N, length_N)


def choose_settings(
    v_NF: Tensor,
    labels_N: Tensor,
    trust_N: Tensor,
    *,
    num_classes: int,
    parts: list[Tensor],
    shrinkages: Sequence[float],
    block_bytes: int = BLOCK_BYTES,
    threads: int = 1,
) -> ProbeSettings:
    """The shrinkage and temperature under which held-out given labels are likeliest.

    A label may be wrong: its likelihood is a mixture with a uniform one, so that a wrong label cannot outweigh others.
    """

    def likelihoods(fold: Iterator[HeldOut]) -> Tensor:
        fits_T = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
        for held in fold:
            plain_BC = held.log_likelihood(Pull())
            for place, temperature in enumerate(TEMPERATURES):
                own_BL = torch.log_softmax(temperature * plain_BC, dim=1).gather(1, held.labels_B[:, None]).exp()
                fits_T[place] += ((1 - PRIOR_WRONG) * own_BL + PRIOR_WRONG / num_classes).log().double().sum().cpu()
        return fits_T

    judged_N = enough_rows(len(v_NF), v_NF.device)
    best, chosen = -math.inf, (shrinkages[0], TEMPERATURES[0])
    for shrinkage in shrinkages:
        found = over_folds(
            likelihoods,
            v_NF,
            labels_N,
            trust_N,
            num_classes,
            parts=parts,
            shrinkage=shrinkage,
            judged_N=judged_N,
            block_bytes=block_bytes,
            threads=threads,
        )
        fits_T = torch.stack(found).sum(dim=0)
        if float(fits_T.max()) > best:
            best, chosen = float(fits_T.max()), (shrinkage, TEMPERATURES[int(fits_T.argmax())])
    return ProbeSettings(
        num_classes=num_classes,
        parts=parts,
        shrinkage=chosen[0],
        temperature=chosen[1],
        block_bytes=block_bytes,
        threads=threads,
    )


def enough_rows(count: int, device: torch.device) -> Tensor | None:
    """Rows that tell settings apart: all (None), or evenly so many of a large set."""
    if count <= TELLING_ROWS:
        return None
    row_N = torch.arange(count, device=device)
    return row_N * TELLING_ROWS // count != (row_N + 1) * TELLING_ROWS // count

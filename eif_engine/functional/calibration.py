"""From scores to probabilities, by examples of wrong labels and samples whose labels may be right or wrong.

`fit_doubt` is logistic regression from positive and unlabelled examples with an unbiased risk (du Plessis et al.,
ICML 2015). The positive examples are canaries; the unlabelled ones are all samples, of which a share pi is wrong.

    minimise  mean over samples of log(1 + exp g)  -  pi * mean over canaries of g,      g = slope * score + bias

At the minimum the mean probability of the samples is pi, and sigmoid(g) estimates P(wrong | score).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn import functional as F

RIDGE = 1e-3
"""Keeps a fit finite where examples are separated perfectly."""

RECALLS = (0.4, 0.5, 0.6, 0.7, 0.8)
"""Recalls of canaries at which the share of wrong labels is read."""

FEW_RECALLS = (0.1, 0.2, 0.3)
"""Recalls at which it is read too where the least is looked for."""

MOST_WRONG = 0.5
"""More wrong labels than that cannot be told from right ones."""


@dataclass(frozen=True)
class Doubt:
    """`P(wrong) = sigmoid(slope * score + bias)`, slope > 0."""

    slope: float
    bias: float

    def probability(self, score_N: Tensor) -> Tensor:
        """P(wrong) (N,)."""
        return torch.sigmoid(self.slope * score_N.double() + self.bias)


def wrong_share(score_N: Tensor, canary_score_B: Tensor) -> tuple[float, float]:
    """The least and a likely share of wrong labels, in [0, 0.5].

    Were only wrong labels above a threshold, the share would be what lies above it, over the recall of canaries there.
    Low thresholds let right labels in, so every reading is too high where right ones look odd too, and the least of
    them is what the scores cannot be explained without (as in Blanchard et al., JMLR 2010). Where wrong labels stand
    out the readings agree. Where they do not, being flips to similar classes, the least is too low, and the median of
    those at which there are many canaries is the better guess.
    """
    above = [_above(score_N, canary_score_B.double(), recall) for recall in (*FEW_RECALLS, *RECALLS)]
    recalls, count = (*FEW_RECALLS, *RECALLS), max(1, len(score_N))
    # Few samples lie above a high threshold, and few canaries tell where it is: each share is read a standard error
    # higher (Poisson for the samples, binomial for the canaries).
    least = min(
        (k + 1 + (k + 0.75 + k**2 * (1 - recall) / (recall * len(canary_score_B))) ** 0.5) / count / recall
        for k, recall in zip(above, recalls, strict=True)
    )
    readings = sorted(k / count / recall for k, recall in zip(above, recalls, strict=True) if recall in RECALLS)
    likely = min(readings[len(readings) // 2], MOST_WRONG)
    return min(least, likely), likely


def _above(score_N: Tensor, canary_score_B: Tensor, recall: float) -> int:
    """Samples that score at least as high as this share of the canaries."""
    return int((score_N >= torch.quantile(canary_score_B, 1 - recall)).sum())


def fit_doubt(score_N: Tensor, canary_score_B: Tensor, share: float) -> Doubt:
    """Fit to the scores of all samples and of canaries, given the share of wrong labels among the samples.

    Probabilities do not depend on the unit of the score.
    """
    center, unit = score_N.double().mean(), score_N.double().std(correction=0).clamp_min(1e-12)
    score_N, canary = (score_N.double() - center) / unit, ((canary_score_B.double() - center) / unit).mean()

    def risk(parameters: Tensor) -> Tensor:
        slope, bias = F.softplus(parameters[0]), parameters[1]
        unlabelled = F.softplus(slope * score_N + bias).mean()
        return unlabelled - share * (slope * canary + bias) + RIDGE * share * slope.square()

    found = _minimum(risk, torch.zeros(2, dtype=torch.float64, device=score_N.device))
    slope = F.softplus(found[0]) / unit
    return Doubt(float(slope), float(found[1] - slope * center))


def fit_choice(evidence_BJP: Tensor, right_B: Tensor, weight_B: Tensor) -> Tensor:
    """Weights (P,), none below 0, of a conditional logit: `P(option j) = softmax over j of evidence_j . weight`.

    Args:
        evidence_BJP: P kinds of evidence for each of J options; an option with an infinite entry is ruled out.
        right_B: The right option, which is not ruled out.
        weight_B: How much an example counts, at least 0.
    """
    weight_B = weight_B.double() / weight_B.double().sum().clamp_min(1e-12)

    def risk(parameters: Tensor) -> Tensor:
        weight_P = F.softplus(parameters)
        log_B = choice_log_probability(evidence_BJP, weight_P).gather(1, right_B[:, None]).squeeze(1)
        return RIDGE * weight_P.square().sum() - (weight_B * log_B).sum()

    start = torch.zeros(evidence_BJP.shape[2], dtype=torch.float64, device=evidence_BJP.device)
    return F.softplus(_minimum(risk, start))


def choice_log_probability(evidence_BJP: Tensor, weight_P: Tensor) -> Tensor:
    """Log probabilities (B, J) of the options; minus infinity for those ruled out."""
    possible_BJ = torch.isfinite(evidence_BJP).all(dim=2)
    utility_BJ = evidence_BJP.double().where(possible_BJ[:, :, None], 0.0) @ weight_P
    log_BJ = torch.log_softmax(utility_BJ.masked_fill(~possible_BJ, -1e9), dim=1)
    return log_BJ.masked_fill(~possible_BJ, -torch.inf)


def _minimum(risk: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Minimise a smooth function of a few parameters (L-BFGS of scipy: importing torch's optimisers takes seconds)."""

    def value_and_gradient(parameters: NDArray[np.float64], *_: object) -> tuple[float, NDArray[np.float64]]:
        moved = torch.from_numpy(parameters).to(start).requires_grad_()
        with torch.enable_grad():
            value = risk(moved)
            (gradient,) = torch.autograd.grad(value, moved)
        return float(value.detach()), gradient.cpu().numpy()

    found = minimize(
        value_and_gradient,
        start.cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 200, "gtol": 1e-9, "ftol": 1e-15},
    )
    return torch.from_numpy(np.asarray(found.x, dtype=np.float64)).to(start)

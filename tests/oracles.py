"""Slow float64 loops written from the equations: the definition of correct. Nothing here calls the code under test."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def unit(vector: Tensor) -> Tensor:
    length: Tensor = (vector * vector).sum().sqrt()
    return vector / length


def embed(weight_DF: Tensor, bias_D: Tensor, x_F: Tensor) -> Tensor:
    return weight_DF @ x_F + bias_D


def distance(z: Tensor, other: Tensor, kind: str) -> Tensor:
    a, b = unit(z), unit(other)
    if kind == "cosine":
        return 1 - (a * b).sum()
    squared = ((a - b) ** 2).sum()
    return squared if kind == "squared_euclidean" else squared.sqrt()


def query_distance(
    weight_DF: Tensor, bias_D: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], kind: str = "squared_euclidean"
) -> Tensor:
    """Mean distance of the pairs under a head."""
    total = torch.zeros((), dtype=torch.float64)
    for x, other in pairs:
        total = total + distance(embed(weight_DF, bias_D, x), embed(weight_DF, bias_D, other), kind)
    return total / len(pairs)


def gradient(
    weight_DF: Tensor, bias_D: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], kind: str = "squared_euclidean"
) -> Tensor:
    """Dense gradient of the query's distance in the head weight (D, F)."""
    weight = weight_DF.clone().requires_grad_()
    (found,) = torch.autograd.grad(query_distance(weight, bias_D, pairs, kind), weight)
    return found


def proxy_nca(z_D: Tensor, label: int, proxies_CD: Tensor, scale: float) -> float:
    """-log( exp(-|s zn - s pn_y|^2) / sum_c exp(-|s zn - s pn_c|^2) )."""
    squared = [float(((scale * unit(z_D) - scale * unit(proxy)) ** 2).sum()) for proxy in proxies_CD]
    return squared[label] + math.log(math.fsum(math.exp(-value) for value in squared))


def soft_triple(z_D: Tensor, label: int, centers_CKD: Tensor, *, lambda_: float, gamma: float, margin: float) -> float:
    """-log( exp(lambda (S_y - margin)) / (exp(lambda (S_y - margin)) + sum_{c != y} exp(lambda S_c)) )."""
    similarities = []
    for centers_KD in centers_CKD:
        cosines = [float(unit(z_D) @ unit(center)) for center in centers_KD]
        weights = [math.exp(cosine / gamma) for cosine in cosines]
        similarities.append(math.fsum(w * c for w, c in zip(weights, cosines, strict=True)) / math.fsum(weights))
    logits = [lambda_ * (s - margin * (c == label)) for c, s in enumerate(similarities)]
    return math.log(math.fsum(math.exp(value - logits[label]) for value in logits))


def softmax_loss(logits: Sequence[float], label: int) -> float:
    """-log( exp(l_y) / sum_c exp(l_c) )."""
    most = max(logits)
    return most - logits[label] + math.log(math.fsum(math.exp(value - most) for value in logits))


def proxy_anchor(z_D: Tensor, label: int, proxies_CD: Tensor, *, margin: float, alpha: float) -> float:
    """log(1 + exp(-alpha (s_y - margin))) + 1/C sum_{c != y} log(1 + exp(alpha (s_c + margin)))."""
    terms = []
    for c, proxy in enumerate(proxies_CD):
        cosine = float(unit(z_D) @ unit(proxy))
        exponent = -alpha * (cosine - margin) if c == label else alpha * (cosine + margin)
        softplus = max(exponent, 0.0) + math.log1p(math.exp(-abs(exponent)))
        terms.append(softplus if c == label else softplus / len(proxies_CD))
    return math.fsum(terms)


def normalized_softmax(z_D: Tensor, label: int, proxies_CD: Tensor, *, temperature: float) -> float:
    return softmax_loss([float(unit(z_D) @ unit(proxy)) / temperature for proxy in proxies_CD], label)


def cosface(z_D: Tensor, label: int, proxies_CD: Tensor, *, scale: float, margin: float) -> float:
    cosines = [float(unit(z_D) @ unit(proxy)) for proxy in proxies_CD]
    return softmax_loss([scale * (cosine - margin * (c == label)) for c, cosine in enumerate(cosines)], label)


def arcface(z_D: Tensor, label: int, proxies_CD: Tensor, *, scale: float, margin: float) -> float:
    """The label's logit is scale cos(theta + m), and past theta = pi - m it is scale (cos(theta) - m sin(m))."""
    m = math.radians(margin)
    logits = [scale * float(unit(z_D) @ unit(proxy)) for proxy in proxies_CD]
    theta = math.acos(min(1.0, max(-1.0, logits[label] / scale)))
    logits[label] = scale * (math.cos(theta + m) if theta <= math.pi - m else math.cos(theta) - m * math.sin(m))
    return softmax_loss(logits, label)


def influence(
    *,
    weight_DF: Tensor,
    bias_D: Tensor,
    moved: Sequence[Tensor],
    x_NF: Tensor,
    labels: Sequence[int],
    pairs: Sequence[tuple[Tensor, Tensor]],
    loss: object,
    normalize: bool,
    kind: str = "squared_euclidean",
) -> list[float]:
    """Eq. 6, sample by sample and theta by theta; `moved` are whole head weights, `loss(z, label)` one value."""
    assert callable(loss)
    base = float(query_distance(weight_DF, bias_D, pairs, kind))
    scores = []
    for x_F, label in zip(x_NF, labels, strict=True):
        terms = []
        for theta_DF in moved:
            change = float(query_distance(theta_DF, bias_D, pairs, kind)) - base
            loss_change = loss(embed(theta_DF, bias_D, x_F), label) - loss(embed(weight_DF, bias_D, x_F), label)
            terms.append(change * loss_change / (float((theta_DF - weight_DF).norm()) if normalize else 1.0))
        scores.append(math.fsum(terms) / len(terms))
    return scores


def nearest_rows(vectors: Tensor, row: int, count: int) -> list[tuple[float, int]]:
    """The nearest other rows by squared distance of normalised vectors, then by row."""
    found = [
        (float(((unit(vectors[row]) - unit(vectors[other])) ** 2).sum()), other)
        for other in range(len(vectors))
        if other != row
    ]
    return sorted(found)[:count]


def discriminant(
    v_NF: Tensor,
    labels: Sequence[int],
    trust: Sequence[float],
    *,
    row: int,
    left_out: Sequence[int],
    classes: int,
    shrinkage: float,
    prior_count: float,
    pull: tuple[float, float],
) -> list[float]:
    """Log densities of a row, up to a constant, if it showed each class, from the rows that are not left out.

    Normal with one covariance; a class other than the given one is pulled towards it: N(mu_c + t (mu_b - mu_c), S) with
    t normal of given mean and variance.
    """
    kept = [other for other in range(len(v_NF)) if other not in left_out]
    zero = torch.zeros(v_NF.shape[1], dtype=torch.float64)
    count, mass = sum(trust[other] for other in kept), dict.fromkeys(range(classes), 0.0)
    sums = {c: zero.clone() for c in range(classes)}
    for other in kept:
        mass[labels[other]] += trust[other]
        sums[labels[other]] = sums[labels[other]] + trust[other] * v_NF[other]
    overall = sum(sums.values(), zero) / count
    within = torch.zeros(len(zero), len(zero), dtype=torch.float64)
    for other in kept:
        difference = v_NF[other] - sums[labels[other]] / mass[labels[other]]
        within = within + trust[other] * torch.outer(difference, difference)
    within = within / (count - sum(mass[c] > prior_count for c in range(classes)))
    scale = float(within.diagonal().mean())
    covariance = (1 - shrinkage) * within + shrinkage * scale * torch.eye(len(zero), dtype=torch.float64)
    means = [(sums[c] + prior_count * overall) / (mass[c] + prior_count) for c in range(classes)]
    given, found = means[labels[row]], []
    for c in range(classes):
        line = given - means[c]
        spread = covariance + pull[1] * torch.outer(line, line)
        normal = torch.distributions.MultivariateNormal(means[c] + pull[0] * line, spread)
        found.append(float(normal.log_prob(v_NF[row])))  # type: ignore[no-untyped-call]  # torch has no types there
    return found

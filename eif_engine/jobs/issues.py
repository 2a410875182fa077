"""Find training samples whose label looks wrong, and the label they should have.

    evidence about the given labels  ->  the same evidence about canaries: flips planted in copies of the labels
        ->  share of wrong labels  ->  P(label is wrong)  ->  P(label is c): the suggestion

Of labels, nothing but the given ones is used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.errors import InvalidInput
from eif_engine.functional.agreement import Neighborhood, supporters
from eif_engine.functional.calibration import choice_log_probability, fit_choice, fit_doubt, wrong_share
from eif_engine.functional.draws import Draws
from eif_engine.issue_config import IssueConfig
from eif_engine.jobs.issue_canaries import NO_PULLS, Planted, Planter
from eif_engine.jobs.issue_evidence import PART_WEIGHTS, Evidence, Pulls, Spaces, gather
from eif_engine.types import Progress, no_progress


@dataclass(frozen=True, kw_only=True)
class IssueReport:
    """What was found; arrays that end in N have one entry per training sample.

    Attributes:
        issue_score_N: P(given label is wrong), in [0, 1], given `estimated_noise`.
        suggested_label_N: The most probable label given `likely_noise`; the given one where that is it.
        suggested_probability_N: Its probability, in [0, 1].
        alternative_label_N: The most probable label other than the given one.
        alternative_probability_N: Its probability, in [0, 1].
        neighbor_rows_NK: The nearest neighbours in penultimate space that carry the suggested label; -1 where fewer.
        parts: Every part of the evidence by name; higher is more doubtful. `loss` and `influence` are as given.
        part_weights: Weight of each part in the score, per standard deviation of the part; 0 where only reported.
        estimated_noise: Share of given labels that are wrong, in [0, 0.5]: the least that explains the scores. Scores
            and flags go by it, so that labels which only look odd raise few alarms.
        likely_noise: A likely share, which is higher where wrong labels do not stand out; suggestions go by it.
        flag_above: Score from which a label counts as flagged.
        canary_recall: Share of planted flips that are flagged.
        canary_score_B: Issue score of each planted flip, of all copies; ascending.
        pulls: How far wrong labels have pulled their samples, by space: 0 not at all, 1 to the class they were given.
    """

    issue_score_N: NDArray[np.float64]
    suggested_label_N: NDArray[np.int64]
    suggested_probability_N: NDArray[np.float64]
    alternative_label_N: NDArray[np.int64]
    alternative_probability_N: NDArray[np.float64]
    neighbor_rows_NK: NDArray[np.int64]
    parts: dict[str, NDArray[np.float64]]
    part_weights: dict[str, float]
    estimated_noise: float
    likely_noise: float
    flag_above: float
    canary_recall: float
    canary_score_B: NDArray[np.float64]
    pulls: dict[str, float]


def find_issues(
    *,
    features_NF: Tensor,
    embeddings_ND: Tensor,
    labels_N: Tensor,
    num_classes: int,
    loss_N: Tensor | None = None,
    influence_N: Tensor | None = None,
    near: Neighborhood | None = None,
    embedding_near: Neighborhood | None = None,
    learned: bool = True,
    keys_N: Tensor | None = None,
    threads: int = 1,
    config: IssueConfig | None = None,
    progress: Progress = no_progress,
) -> IssueReport:
    """Issue scores and suggested labels of all training samples.

    Args:
        features_NF: Penultimate features.
        embeddings_ND: Embeddings; need not be normalised. The same tensor as the features where there is but one space.
        labels_N: Given labels in [0, num_classes).
        num_classes: C.
        loss_N: Loss of each sample under the model and its given label; reported where given.
        influence_N: Absolute influence of each sample summed over confusions; reported where given.
        near: Neighbours of every row by its features, at least `config.num_neighbors`, where they are known already.
        embedding_near: The same by embeddings.
        learned: Whether the model was trained on these labels; if not, wrong ones have pulled nothing.
        keys_N: What tells samples from each other wherever they stand (int64, `draws.keys_of`): with it, findings stay
            comparable when others come or go. None: their rows.
        threads: Folds of the probe at a time, each on one core; what comes out does not depend on it.
        config: How.
        progress: Called after each copy with canaries.

    Raises:
        InvalidInput: Fewer than two classes have samples, or the arrays do not fit each other.
    """
    config = config or IssueConfig()
    known = {"loss": loss_N, "influence": influence_N}
    reported = {name: part_N for name, part_N in known.items() if part_N is not None}
    _check(features_NF, {"embeddings": embeddings_ND, "labels": labels_N, **reported}, labels_N, num_classes)
    draws = Draws.by_row(len(labels_N), config.seed) if keys_N is None else Draws(keys_N, config.seed)
    spaces = Spaces.of(
        features_NF,
        embeddings_ND,
        labels_N,
        num_classes,
        config,
        draws=draws,
        near=near,
        embedding_near=embedding_near,
        threads=threads,
    )
    evidence, planted, pulls = _gathered(
        spaces, labels_N, num_classes, learned=learned, config=config, draws=draws, progress=progress
    )
    return _report(evidence, planted, pulls, spaces=spaces, labels_N=labels_N, reported=reported, config=config)


def _gathered(
    spaces: Spaces,
    labels_N: Tensor,
    num_classes: int,
    *,
    learned: bool,
    config: IssueConfig,
    draws: Draws,
    progress: Progress,
) -> tuple[Evidence, Planted, Pulls]:
    """The evidence about the given labels and about canaries, and the pulls that both suppose."""
    first = gather(spaces, labels_N, NO_PULLS, config)
    planter = Planter(spaces, labels_N, num_classes, evidence=first, config=config, draws=draws)
    seen = first.pulls() if learned else None
    pulls = NO_PULLS if seen is None else planter.matched(seen)
    evidence = first if pulls is NO_PULLS else gather(spaces, labels_N, pulls, config)
    return evidence, planter.plant(pulls, evidence, progress), pulls


def _report(
    evidence: Evidence,
    planted: Planted,
    pulls: Pulls,
    *,
    spaces: Spaces,
    labels_N: Tensor,
    reported: dict[str, Tensor],
    config: IssueConfig,
) -> IssueReport:
    """Probabilities and suggestions."""
    weight_P = _weights(evidence)
    score_N, canary_score_B = evidence.doubt_NP @ weight_P, planted.evidence.doubt_NP @ weight_P
    least, likely = wrong_share(score_N, canary_score_B)
    doubt = fit_doubt(score_N, canary_score_B, least)
    wrong_N, canary_wrong_B = doubt.probability(score_N), doubt.probability(canary_score_B)
    # A flag says that a label is wrong, a suggestion what it is if one has to choose: that goes by the likely share.
    maybe_N = fit_doubt(score_N, canary_score_B, likely).probability(score_N)
    other_N, other_probability_N = _alternative(evidence, maybe_N, planted)
    keep_N = 1 - maybe_N >= other_probability_N
    label_N = labels_N.where(keep_N, other_N)
    parts = dict(zip(PART_WEIGHTS, evidence.doubt_NP.unbind(1), strict=True)) | reported
    return IssueReport(
        issue_score_N=_numbers(wrong_N),
        suggested_label_N=label_N.cpu().numpy(),
        suggested_probability_N=_numbers((1 - maybe_N).where(keep_N, other_probability_N)),
        alternative_label_N=other_N.cpu().numpy(),
        alternative_probability_N=_numbers(other_probability_N),
        neighbor_rows_NK=supporters(spaces.penultimate.near, labels_N, label_N, config.shown_neighbors).cpu().numpy(),
        parts={name: _numbers(part_N) for name, part_N in parts.items()},
        part_weights=dict.fromkeys(reported, 0.0) | PART_WEIGHTS,
        estimated_noise=least,
        likely_noise=likely,
        flag_above=config.flag_above,
        canary_recall=float((canary_wrong_B >= config.flag_above).double().mean()),
        canary_score_B=np.sort(_numbers(canary_wrong_B)),
        pulls={"penultimate": pulls.penultimate.mean, "embedding": pulls.embedding.mean},
    )


def _weights(evidence: Evidence) -> Tensor:
    """Weights (P,) of the parts in their own units; a part that says the same of all samples has none."""
    spread_P = evidence.doubt_NP.std(dim=0, correction=0)
    weight_P = torch.tensor(list(PART_WEIGHTS.values()), dtype=torch.float64, device=spread_P.device)
    return (weight_P / spread_P).where(spread_P > 0, 0.0)


def _alternative(evidence: Evidence, wrong_N: Tensor, planted: Planted) -> tuple[Tensor, Tensor]:
    """The most probable label other than the given one (N,), and its probability (N,).

    Kinds of evidence are weighed as canaries show, where the right answer is the label that a canary had, as far as
    that one is trusted. The probability that no candidate is right is measured on them too, and goes to no label.
    """
    choice_BJP = planted.evidence.choice_NJP
    right_BJ = planted.evidence.candidate_NJ == planted.given_B[:, None]
    right_BJ &= torch.isfinite(choice_BJP).all(dim=2)
    told_B, weight_B = right_BJ.any(dim=1), 1 - wrong_N[planted.rows_B]
    coverage = (weight_B * told_B).sum() / weight_B.sum().clamp_min(1e-12)
    weight_P = fit_choice(choice_BJP[told_B], right_BJ[told_B].int().argmax(dim=1), weight_B[told_B])
    probability_NJ = choice_log_probability(evidence.choice_NJP, weight_P).exp()
    best_N, place_N = probability_NJ.max(dim=1)
    return evidence.candidate_NJ.gather(1, place_N[:, None]).squeeze(1), coverage * wrong_N * best_N


def _numbers(values_N: Tensor) -> NDArray[np.float64]:
    numbers: NDArray[np.float64] = values_N.double().cpu().numpy()
    return numbers


def _check(features_NF: Tensor, others: dict[str, Tensor], labels_N: Tensor, num_classes: int) -> None:
    for name, array in others.items():
        if len(array) != len(features_NF):
            raise InvalidInput(f"{name} has {len(array)} rows, but features has {len(features_NF)}", field=name)
    for name, array in {"features": features_NF, **others}.items():
        if array.is_floating_point() and not bool(torch.isfinite(array).all()):
            raise InvalidInput(f"{name} has NaN or infinite values", field=name)
    if len(labels_N) and not (int(labels_N.min()) >= 0 and int(labels_N.max()) < num_classes):
        raise InvalidInput(f"labels has values outside [0, {num_classes})", field="labels")
    present = int(torch.unique(labels_N).numel())
    if present < 2:
        raise InvalidInput(
            f"labels has {present} class(es) with samples, but a label can only look wrong beside a second one",
            field="labels",
        )

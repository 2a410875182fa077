"""Whose label is wrong? Scores of every training sample, and what each rule would relabel it to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from eif_engine.cases import Case
from eif_engine.config import NeighborSpace, RelabelConfig
from eif_engine.jobs.issues import find_issues
from eif_engine.jobs.relabel import suggest
from tests.benchmarks.paper.models import Model
from tests.benchmarks.paper.rankings import PUBLISHED, closest_pairs, scores

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Verdict:
    """What a detector says.

    Attributes:
        score_N: Doubt in each label; the highest first.
        suggested_N: The label it would give, where it gives any.
        seconds: Wall time.
    """

    score_N: Floats
    suggested_N: Ints | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Detected:
    """How well a detector finds the flipped labels of a model.

    Attributes:
        precision: Of as many samples as there are flips.
        hit: Share of all flipped samples that get their true label back; None where none is suggested.
        kept: Share of the other samples that keep their label.
    """

    model: str
    detector: str
    average_precision: float
    auroc: float
    precision: float
    hit: float | None
    kept: float | None
    seconds: float


def plain_loss(case: Case) -> Verdict:
    """The loss of each sample under the model."""
    started = time.perf_counter()
    z_ND = case.head.embed(case.train_features_NF)
    score_N = case.loss.per_sample(z_ND, case.train_labels_N).numpy()
    return Verdict(score_N, None, time.perf_counter() - started)


def neighbors(case: Case, space: NeighborSpace) -> Verdict:
    """Weighted KNN, the published rule; published in embedding space."""
    started = time.perf_counter()
    vectors: Tensor = case.train_features_NF
    if space is NeighborSpace.EMBEDDING:
        vectors = case.head.embed(vectors)
    labels = [str(label) for label in case.train_labels_N.tolist()]
    found = suggest(
        vectors_NF=vectors,
        labels=labels,
        sample_ids=[str(row) for row in range(len(labels))],
        config=RelabelConfig(),
    )
    score_N, suggested_N = np.zeros(len(labels)), np.zeros(len(labels), dtype=np.int64)
    for each in found:
        row = int(each.sample_id)
        score_N[row], suggested_N[row] = each.score, int(each.suggested_label)
    return Verdict(score_N, suggested_N, time.perf_counter() - started)


def summed_influence(case: Case) -> Verdict:
    """Absolute influence, summed over every confusion."""
    started = time.perf_counter()
    score_N = np.abs(scores(case, closest_pairs(case, None), PUBLISHED)).sum(axis=0)
    return Verdict(score_N, None, time.perf_counter() - started)


def issues(case: Case) -> Verdict:
    """The ensemble that is calibrated by planted canaries."""
    started = time.perf_counter()
    z_ND = case.head.embed(case.train_features_NF)
    found = find_issues(
        features_NF=case.train_features_NF,
        embeddings_ND=z_ND,
        labels_N=case.train_labels_N,
        num_classes=case.loss.num_classes,
        loss_N=case.loss.per_sample(z_ND, case.train_labels_N),
    )
    return Verdict(found.issue_score_N, found.suggested_label_N, time.perf_counter() - started)


ISSUES = "issues (this project)"
KNN_EMBEDDING = "weighted KNN, embedding (published rule)"
KNN_PENULTIMATE = "weighted KNN, penultimate"
OWN: dict[str, Callable[[Case], Verdict]] = {
    ISSUES: issues,
    KNN_EMBEDDING: lambda case: neighbors(case, NeighborSpace.EMBEDDING),
    KNN_PENULTIMATE: lambda case: neighbors(case, NeighborSpace.PENULTIMATE),
    "plain loss": plain_loss,
    "EIF, absolute, all confusions": summed_influence,
}


def judge(model: Model, detector: str, verdict: Verdict) -> Detected:
    """Hold a verdict against the truth."""
    wrong_N = model.flipped_N
    budget = int(wrong_N.sum())
    first = np.argsort(-verdict.score_N, kind="stable")[:budget]
    hit = kept = None
    if verdict.suggested_N is not None:
        right_N = verdict.suggested_N == model.clean_N
        hit, kept = float(right_N[wrong_N].mean()), float(right_N[~wrong_N].mean())
    return Detected(
        model=model.condition.name,
        detector=detector,
        average_precision=float(average_precision_score(wrong_N, verdict.score_N)),
        auroc=float(roc_auc_score(wrong_N, verdict.score_N)),
        precision=float(wrong_N[first].mean()),
        hit=hit,
        kept=kept,
        seconds=verdict.seconds,
    )


def own_verdicts(model: Model, cache: Path) -> list[Detected]:
    """How well each detector of the project does on a model; answers of an earlier run are read."""
    file = cache / model.path.parent.name / "detected" / f"{model.condition.name}.json"
    if not file.exists():
        found = [judge(model, name, detect(model.case)) for name, detect in OWN.items()]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps([asdict(each) for each in found], indent=1))
    return [Detected(**each) for each in json.loads(file.read_text())]

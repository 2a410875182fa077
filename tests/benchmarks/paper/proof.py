"""Table 1: does a confusion come apart when the model is retrained as a ranking says?"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from eif_engine.counterfactual_config import RetrainConfig, RetrainOptimizer, Reweighting
from eif_engine.jobs.counterfactual import counterfactual
from eif_engine.jobs.counterfactual_network import ShuffledImages, counterfactual_network
from eif_engine.jobs.counterfactual_report import CounterfactualReport
from eif_engine.jobs.intervention import Intervention, reweight, shuffled
from eif_engine.types import Query
from tests.benchmarks.paper.data import Split
from tests.benchmarks.paper.models import Model
from tests.benchmarks.paper.network import Size
from tests.benchmarks.paper.rankings import (
    IF,
    KFAC_DAMPED,
    KFAC_STEPS,
    LONG,
    METHODS,
    PUBLISHED,
    RANDOM,
    Rankings,
    closest_pairs,
    largest_groups,
)

TOP_K = 50
DRAWS = 3
NETWORK_METHODS = (PUBLISHED, LONG, KFAC_STEPS, KFAC_DAMPED, IF)
"""Retraining the network takes a hundred times as long as retraining its head."""
HEAD = {
    "Adam 1e-3": RetrainConfig(optimizer=RetrainOptimizer.ADAM, learning_rate=1e-3),
    "SGD 1e-2": RetrainConfig(optimizer=RetrainOptimizer.SGD, learning_rate=1e-2),
}
NETWORK = {
    "Adam 1e-4": RetrainConfig(optimizer=RetrainOptimizer.ADAM, learning_rate=1e-4),
    "SGD 1e-2": RetrainConfig(optimizer=RetrainOptimizer.SGD, learning_rate=1e-2),
}
BUDGETS = {"all": Reweighting(top_k=None), f"top {TOP_K}": Reweighting(top_k=TOP_K)}
"""All samples of a sign, as published, or the ends of the ranking."""

Arms = Mapping[str, Intervention | Sequence[Intervention]]
Check = Callable[[Query, Arms], CounterfactualReport]


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What an arm did to a query; gains are against retraining on the training set as it is.

    Attributes:
        model: Name of the model.
        retrained: `head` or `network`.
        kind: `pair` or `group`.
        optimizer: With its learning rate.
        budget: Which samples were reweighted.
        arm: The ranking.
        query: Its id.
        distance_gain: Above 0: apart.
        recall_gain: Of recall@1.
    """

    model: str
    retrained: str
    kind: str
    optimizer: str
    budget: str
    arm: str
    query: str
    distance_gain: float
    recall_gain: float


def head_gains(model: Model, *, pairs: int, groups: int, cache: Path) -> list[Gain]:
    """Retrain the head alone, from cached features."""
    case = model.case
    found: list[Gain] = []
    for kind, queries in (("pair", closest_pairs(case, pairs)), ("group", largest_groups(case, groups))):
        rankings = Rankings(case, queries)
        for optimizer, config in HEAD.items():

            def check(query: Query, arms: Arms, config: RetrainConfig = config) -> CounterfactualReport:
                return counterfactual(
                    head=case.head,
                    loss=case.loss,
                    train_features_NF=case.train_features_NF,
                    train_labels_N=case.train_labels_N,
                    test_features_MF=case.test_features_MF,
                    test_labels=case.test_labels,
                    query=query,
                    arms=arms,
                    config=config,
                )

            for budget in BUDGETS:
                place = _Place(model, cache, "head", kind, optimizer, budget)
                found += _gains(rankings, check, place)
    return found


def network_gains(model: Model, split: Split, *, pairs: int, size: Size, cache: Path) -> list[Gain]:
    """Retrain the whole network for one epoch, as published."""
    shape = split.train_NCHW.shape[1:]
    backbone = model.backbone(size, tuple(shape)).to(memory_format=torch.channels_last)
    images = split.train_NCHW.contiguous(memory_format=torch.channels_last)
    test: Sequence[Tensor] = torch.split(split.test_MCHW.contiguous(memory_format=torch.channels_last), 256)
    rankings = Rankings(model.case, closest_pairs(model.case, pairs))
    found: list[Gain] = []
    for optimizer, config in NETWORK.items():

        def check(query: Query, arms: Arms, config: RetrainConfig = config) -> CounterfactualReport:
            return counterfactual_network(
                backbone=backbone,
                head=model.case.head,
                loss=model.case.loss,
                train_batches=ShuffledImages(images, config),
                train_labels_N=model.case.train_labels_N,
                test_batches=test,
                test_labels=model.case.test_labels,
                query=query,
                arms=arms,
                config=config,
            )

        place = _Place(model, cache, "network", "pair", optimizer, "all")
        found += _gains(rankings, check, place)
    return found


@dataclass(frozen=True)
class _Place:
    """What a gain belongs to, and the file that its arm is kept in."""

    model: Model
    cache: Path
    retrained: str
    kind: str
    optimizer: str
    budget: str

    def file(self, arm: str, queries: int) -> Path:
        parts = (self.retrained, self.kind, self.optimizer, self.budget, arm, str(queries))
        name = "-".join("".join(c if c.isalnum() or c in ".-" else "_" for c in part) for part in parts)
        return self.cache / self.model.path.parent.name / "gains" / self.model.condition.name / f"{name}.json"

    def gain(self, arm: str, report: CounterfactualReport) -> Gain:
        found = report.arms[arm]
        return Gain(
            model=self.model.condition.name,
            retrained=self.retrained,
            kind=self.kind,
            optimizer=self.optimizer,
            budget=self.budget,
            arm=arm,
            query=report.query_id,
            distance_gain=found.distance_gain.mean,
            recall_gain=found.recall_gain.mean,
        )


def _gains(rankings: Rankings, check: Check, place: _Place) -> list[Gain]:
    """Gains of every arm; those that were computed in an earlier run are read."""
    methods = METHODS if place.retrained == "head" else NETWORK_METHODS
    files = {arm: place.file(arm, len(rankings.queries)) for arm in [*methods, RANDOM]}
    missing = [arm for arm, file in files.items() if not file.exists()]
    fresh: dict[str, list[Gain]] = {arm: [] for arm in missing}
    for row, query in enumerate(rankings.queries if missing else ()):
        report = check(query, _arms(place, rankings, row, missing))
        for arm in missing:
            fresh[arm].append(place.gain(arm, report))
    for arm, gains in fresh.items():
        files[arm].parent.mkdir(parents=True, exist_ok=True)
        files[arm].write_text(json.dumps([asdict(gain) for gain in gains], indent=1))
    return [Gain(**each) for file in files.values() for each in json.loads(file.read_text())]


def _arms(place: _Place, rankings: Rankings, row: int, missing: Sequence[str]) -> Arms:
    case, reweighting = place.model.case, BUDGETS[place.budget]
    arms: dict[str, Intervention | Sequence[Intervention]] = {
        arm: reweight(rankings[arm][row], case.train_labels_N, reweighting) for arm in missing if arm != RANDOM
    }
    if RANDOM in missing:  # it repeats the numbers of the published steps
        like = reweight(rankings[PUBLISHED][row], case.train_labels_N, reweighting)
        classes, draws = case.loss.num_classes, DRAWS if place.retrained == "head" else 1
        arms[RANDOM] = [shuffled(like, case.train_labels_N, num_classes=classes, seed=seed) for seed in range(draws)]
    return arms

"""Proof that acting on the findings helps: the head is retrained from cached features, beside random changes.

    all confusions:           give flagged samples their suggested labels
    the largest classes:      reweight as the ranking of each says

Every arm starts from the checkpoint and sees the same batches; gains are over retraining with nothing changed, which is
done once for all targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import AuditModel, Columns
from eif_engine.config import QueryKind
from eif_engine.counterfactual_config import RetrainConfig, Reweighting
from eif_engine.errors import InvalidInput
from eif_engine.functional.retrain import leaves, retrain_head
from eif_engine.jobs.audit_data import AuditData
from eif_engine.jobs.audit_influence import Influence
from eif_engine.jobs.audit_issues import Issues
from eif_engine.jobs.counterfactual import compare_arms
from eif_engine.jobs.counterfactual_report import ArmReport, CounterfactualReport
from eif_engine.jobs.intervention import Intervention, relabel, reweight, shuffled, unchanged
from eif_engine.jobs.one_core import on_one_core_each
from eif_engine.types import ALL_QUERIES, Progress, Query

RELABEL, REWEIGHT = "relabel", "reweight"
ISSUES, EIF, RANDOM = "issues", "eif", "random"
_REWEIGHTING = Reweighting()
_DTYPE = torch.float32


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is proved.

    Attributes:
        query: Whose distance is looked at.
        action: `relabel` or `reweight`.
        arms: Changes by arm, each drawn once or several times.
    """

    query: Query
    action: str
    arms: dict[str, list[Intervention]]

    def changed(self, arm: str, labels_N: Tensor) -> int:
        """Samples that an arm changes."""
        first = self.arms[arm][0] if arm in self.arms else None
        if first is None:
            return 0
        return first.relabelled(labels_N) if self.action == RELABEL else first.reweighted()


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A target and what became of it."""

    target: Target
    report: CounterfactualReport


def prove(
    data: AuditData,
    groups: Sequence[Query],
    config: AuditConfig,
    *,
    influence: Influence | None,
    issues: Issues | None,
    threads: int,
    progress: Progress,
    missing: list[str],
) -> list[Proof]:
    """Retrain for every target; none without a model, where it is not asked for, or where there is nothing to prove.

    Args:
        data: The splits, and the model.
        groups: Confusion classes, the largest first.
        config: How many, and how the head is retrained.
        influence: On them.
        issues: Label issues.
        threads: Retrainings at a time, each on one core.
        progress: Called after each retraining.
        missing: Told what is left out.
    """
    if data.model is None or influence is None or not config.proofs:
        return []
    targets = _targets(data, groups, influence.rows_QN, issues, config)
    if not targets:
        missing.append("There is no proof: no confusion is left to explain.")
        return []
    try:
        return _proofs(data, data.model, targets, config, threads=threads, progress=progress)
    except InvalidInput as error:
        missing.append(f"There is no proof: {error.message}.")
        return []


def proof_table(proofs: Sequence[Proof], labels_N: Tensor) -> Columns:
    """The table `proof`."""
    rows = [
        (proof.target, name, arm, proof.target.changed(name, labels_N))
        for proof in proofs
        for name, arm in proof.report.arms.items()
    ]
    return {
        "target": [target.query.query_id for target, *_ in rows],
        "action": [target.action for target, *_ in rows],
        "arm": [name for _, name, _, _ in rows],
        "draws": [arm.draws for _, _, arm, _ in rows],
        "changed": [changed for *_, changed in rows],
        "distance": [arm.distance.mean for _, _, arm, _ in rows],
        "distance_gain": [arm.distance_gain.mean for _, _, arm, _ in rows],
        "distance_gain_error": [arm.distance_gain.standard_error or 0.0 for _, _, arm, _ in rows],
        "recall_at_1": [arm.recall_at_1.mean for _, _, arm, _ in rows],
        "recall_gain": [arm.recall_gain.mean for _, _, arm, _ in rows],
        "recall_gain_error": [arm.recall_gain.standard_error or 0.0 for _, _, arm, _ in rows],
    }


def proof_figures(proofs: Sequence[Proof]) -> dict[str, float]:
    """The figures about the proof; those of an action that was not taken are absent."""
    figures: dict[str, float] = {}
    relabelled = [proof.report.arms for proof in proofs if proof.target.action == RELABEL]
    for arms in relabelled:
        figures["proof_recall_gain"] = arms[ISSUES].recall_gain.mean
        figures["proof_random_recall_gain"] = arms[RANDOM].recall_gain.mean
    reweighted = [proof.report.arms for proof in proofs if proof.target.action == REWEIGHT]
    if reweighted:
        figures["proof_distance_gain"] = _mean_gain([arms[EIF] for arms in reweighted])
        figures["proof_random_distance_gain"] = _mean_gain([arms[RANDOM] for arms in reweighted])
    return figures


def _mean_gain(arms: list[ArmReport]) -> float:
    return sum(arm.distance_gain.mean for arm in arms) / len(arms)


def _targets(
    data: AuditData,
    groups: Sequence[Query],
    rows_QN: Sequence[NDArray[np.float64]],
    issues: Issues | None,
    config: AuditConfig,
) -> list[Target]:
    labels_N, num_classes = data.train.codes_N.cpu(), len(data.train.classes)

    def target(query: Query, action: str, arm: str, change: Intervention, place: int) -> Target:
        draws = [
            shuffled(change, labels_N, num_classes=num_classes, seed=_seed(config, place, draw))
            for draw in range(config.proof_draws)
        ]
        return Target(query=query, action=action, arms={arm: [change], RANDOM: draws})

    found = []
    pairs = tuple(pair for group in groups for pair in group.pairs)
    moved = {} if issues is None else _moved(issues, labels_N)
    if pairs and moved:
        everything = Query(query_id=ALL_QUERIES, kind=QueryKind.CONFUSION_GROUPS, pairs=pairs)
        found.append(target(everything, RELABEL, ISSUES, relabel(moved, labels_N, num_classes=num_classes), 0))
    for place, (group, scores_N) in enumerate(zip(groups[: config.proofs], rows_QN, strict=True), start=1):
        found.append(target(group, REWEIGHT, EIF, reweight(scores_N, labels_N, _REWEIGHTING), place))
    return found


def _moved(issues: Issues, labels_N: Tensor) -> dict[int, int]:
    """Rows that are relabelled, and to what."""
    rows = np.flatnonzero(issues.relabel_N != labels_N.numpy())
    return dict(zip(rows.tolist(), issues.relabel_N[rows].tolist(), strict=True))


def _seed(config: AuditConfig, place: int, draw: int) -> int:
    """One seed a target and draw."""
    return (config.seed * 1_000_003 + place) * 1_000_003 + draw


def _proofs(
    data: AuditData,
    model: AuditModel,
    targets: list[Target],
    config: AuditConfig,
    *,
    threads: int,
    progress: Progress,
) -> list[Proof]:
    """Every retraining on its own core, then every report."""
    device = data.train.features_NF.device
    head, loss = model.head.to(device=device, dtype=_DTYPE), model.loss.to(device=device, dtype=_DTYPE)
    x_NF, test_MF = data.train.features_NF.to(_DTYPE), data.test.features_NF.to(_DTYPE)
    settings = _trainable(model, config.retrain)

    def retrain(change: Intervention) -> Tensor:
        moved, _ = retrain_head(
            head,
            loss,
            x_NF=x_NF,
            labels_N=change.labels_N.to(device),
            weights_N=change.weights_N.to(device, _DTYPE),
            config=settings,
        )
        return moved.embed(test_MF)

    none = unchanged(data.train.codes_N.cpu())
    changes = [none, *(draw for target in targets for draws in target.arms.values() for draw in draws)]
    found = on_one_core_each(retrain, changes, threads=threads, progress=progress)
    after = dict(zip(map(id, changes), found, strict=True))
    return [
        Proof(
            target=target,
            report=compare_arms(
                lambda change: after.get(id(change), found[0]),  # what is not among them is `none`
                checkpoint_MD=head.embed(test_MF),
                train_labels_N=data.train.codes_N.cpu(),
                num_classes=loss.num_classes,
                test_labels=data.test.labels,
                query=target.query,
                arms=target.arms,
                distance=config.influence.distance,
            ),
        )
        for target in targets
    ]


def _trainable(model: AuditModel, config: RetrainConfig) -> RetrainConfig:
    """Without training proxies where the loss has none."""
    try:
        leaves(model.loss)
    except InvalidInput:
        return replace(config, train_proxies=False)
    return config

"""What to do about each training class: advice by suggested labels, and classes that may be one identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Columns
from eif_engine.functional.class_advice import Advice, ClassAdvice, advise
from eif_engine.functional.class_overlap import overlaps
from eif_engine.jobs.audit_data import Samples
from eif_engine.jobs.audit_issues import Issues

_ORDER = (Advice.CENTRALIZED, Advice.DIVERSIFIED, Advice.OTHER, Advice.INDIVIDUAL, Advice.NONE)


@dataclass(frozen=True, kw_only=True)
class AdvisedClass:
    """A class and what to do about it.

    Attributes:
        label: The class.
        advice: By suggested labels.
        top_target: The label most often suggested; empty without one.
        same_as: A class that may be the same identity; empty without one.
        overlap: Of the two centres, in [0, 1].
    """

    label: str
    advice: ClassAdvice
    top_target: str
    same_as: str
    overlap: float

    @property
    def action(self) -> str:
        """What to do, in a sentence."""
        found, moved = self.advice, round(self.advice.elsewhere * self.advice.samples)
        share = f"{moved} of {found.samples} samples"
        told = {
            Advice.CENTRALIZED: f"Check whether {self.label} and {self.top_target} are one class, and merge or rename: "
            f"{share} look like {self.top_target}.",
            Advice.DIVERSIFIED: f"Clean the class: {share} look like several others, most like {self.top_target}.",
            Advice.OTHER: f"Review the {share} that look like other classes, most like {self.top_target}.",
            Advice.INDIVIDUAL: f"Relabel {share}, most to {self.top_target}.",
            Advice.NONE: "Nothing to do.",
        }[found.advice]
        if not self.same_as:
            return told
        same = f"Check whether it is the same as {self.same_as}: their samples cannot be told apart well."
        return same if found.advice is Advice.NONE else f"{told[:-1]}; also check whether it is {self.same_as}."


def advised_classes(train: Samples, issues: Issues | None, config: AuditConfig) -> list[AdvisedClass]:
    """Every training class with samples: those that need something first, the largest share first, then by label."""
    given_N = train.codes_N.cpu().numpy()
    suggested_N = given_N if issues is None else issues.relabel_N
    same = same_identity(train, config, torch.from_numpy(suggested_N))
    found = [
        AdvisedClass(
            label=train.classes[code],
            advice=advice,
            top_target="" if advice.top_target is None else train.classes[advice.top_target],
            same_as=train.classes[same[code][0]] if code in same else "",
            overlap=same[code][1] if code in same else 0.0,
        )
        for code, advice in enumerate(advise(given_N, suggested_N, len(train.classes)))
        if advice.samples
    ]
    return sorted(found, key=_urgency)


def same_identity(
    train: Samples, config: AuditConfig, suggested_N: Tensor | None = None
) -> dict[int, tuple[int, float]]:
    """Of each class that overlaps with another, the one it overlaps most with, and how far.

    Args:
        train: The training samples.
        config: From which overlap on.
        suggested_N: The class that each looks like; None where labels were not looked at.
    """
    if suggested_N is not None:
        suggested_N = suggested_N.to(train.codes_N.device)
    pair_PS, overlap_P = overlaps(train.features_NF, train.codes_N, len(train.classes), suggested_N=suggested_N)
    enough_P = overlap_P >= config.same_identity
    best: dict[int, tuple[int, float]] = {}
    rows = torch.cat((pair_PS[enough_P], pair_PS[enough_P].flip(1))).tolist()
    for (code, other), overlap in zip(rows, overlap_P[enough_P].repeat(2).tolist(), strict=True):
        known = best.get(code)
        if known is None or (-overlap, train.classes[other]) < (-known[1], train.classes[known[0]]):
            best[code] = other, overlap
    return best


def advice_table(classes: list[AdvisedClass]) -> Columns:
    """The table `advice`."""
    return {
        "label": [each.label for each in classes],
        "samples": [each.advice.samples for each in classes],
        "recommended_elsewhere": [each.advice.elsewhere for each in classes],
        "target_entropy": [each.advice.entropy for each in classes],
        "top_target": [each.top_target for each in classes],
        "top_share": [each.advice.top_share for each in classes],
        "advice": [each.advice.advice.value for each in classes],
        "same_as": [each.same_as for each in classes],
        "same_as_overlap": [each.overlap for each in classes],
        "action": [each.action for each in classes],
    }


def class_figures(classes: list[AdvisedClass], *, advised: bool) -> dict[str, float]:
    """The figures about classes; those by advice only where labels were looked at."""
    kinds = (Advice.CENTRALIZED, Advice.DIVERSIFIED, Advice.INDIVIDUAL, Advice.OTHER)
    figures = {"same_identity_classes": float(sum(bool(each.same_as) for each in classes))}
    if advised:
        figures |= {
            f"classes_{kind.value.lower()}": float(sum(each.advice.advice is kind for each in classes))
            for kind in kinds
        }
    return figures


def _urgency(each: AdvisedClass) -> tuple[int, bool, float, str]:
    return _ORDER.index(each.advice.advice), not each.same_as, -each.advice.elsewhere, each.label

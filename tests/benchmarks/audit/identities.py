"""One identity under two labels: classes of Omniglot cut in two, and whether `same_as` of the class advice finds them.

The network is trained on the labels as they are cut, as it would be in earnest: it has been taught to tell the two
parts apart. Features of a frozen network know of no labels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import AuditModel, AuditSplit
from eif_engine.functional.class_overlap import overlaps
from eif_engine.jobs.audit import run_audit
from eif_engine.jobs.audit_classes import same_identity
from eif_engine.jobs.audit_data import prepare
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import Architecture
from eif_engine.models.head import Head
from eif_engine.models.safe_load import read_checkpoint
from eif_engine.models.state_dict import tensors_of
from services.demo.data import DemoImage, flip, load
from services.demo.train import train
from tests.benchmarks.audit_job.models import MOBILENET, features

CUT_CLASSES = 20
SHARES = (0.5, 0.25)
FLIPPED = (0.0, 0.1)
EPOCHS = 10
_OTHER = " (other)"
_BODY = "backbone."

Figures = dict[str, float]


def cut(images: Sequence[DemoImage], *, share: float, seed: int) -> list[DemoImage]:
    """Give a share of the samples of some classes a label of their own, as somebody who knew no better would."""
    random = np.random.default_rng(seed)
    labels = [image.true_label for image in images]
    found = [replace(image, label=image.true_label) for image in images]
    for label in random.choice(sorted(set(labels)), size=CUT_CLASSES, replace=False).tolist():
        rows = [row for row, each in enumerate(labels) if each == label]
        for row in random.choice(rows, size=round(share * len(rows)), replace=False):
            found[row] = replace(found[row], label=f"{label}{_OTHER}", true_label=f"{label}{_OTHER}")
    return found


def compared(split: AuditSplit) -> Figures:
    """Precision and recall of classes that overlap, by features alone, counted by class; how far parts overlap."""
    samples = prepare(split, split, None).train
    named = {
        samples.classes[code]: samples.classes[to] for code, (to, _) in same_identity(samples, AuditConfig()).items()
    }
    pair_PS, overlap_P = overlaps(split.features_NF, samples.codes_N, len(samples.classes))
    true_P = torch.tensor(
        [other_part(samples.classes[one]) == samples.classes[other] for one, other in pair_PS.tolist()]
    )
    return {
        "classes": float(len(samples.classes)),
        **_judged(named, split.labels),
        "median_overlap_of_parts": float(overlap_P[true_P].median()),
        "lowest_overlap_of_parts": float(overlap_P[true_P].min()),
        "highest_other_overlap": float(overlap_P[~true_P].max()),
    }


def audited(train: AuditSplit, test: AuditSplit, model: AuditModel) -> Figures:
    """Precision and recall of `same_as` of a whole audit, which knows samples that look like another class."""
    advice = run_audit(train=train, test=test, model=model, config=AuditConfig(proofs=0)).tables["advice"]
    named = {label: other for label, other in zip(advice["label"], advice["same_as"], strict=True) if other}
    for label, other in sorted(named.items()):
        if other_part(label) != other:
            sys.stderr.write(f"    {label} is named the same as {other}\n")
    merged = [
        other_part(label) == other
        for label, other, kind in zip(advice["label"], advice["top_target"], advice["advice"], strict=True)
        if kind == "CENTRALIZED"
    ]
    figures = {f"audit_{name}": value for name, value in _judged(named, train.labels).items()}
    return figures | {"audit_centralized": float(len(merged)), "audit_centralized_right": float(sum(merged))}


def _judged(named: Mapping[str, str], labels: Sequence[str]) -> Figures:
    parts = {label for label in set(labels) if other_part(label) in set(labels)}
    right = sum(other_part(label) == other for label, other in named.items())
    return {
        "parts": float(len(parts)),
        "named": float(len(named)),
        "precision": right / max(1, len(named)),
        "recall": right / len(parts),
    }


def other_part(label: str) -> str:
    """The label of the rest of a class that was cut."""
    return label.removesuffix(_OTHER) if label.endswith(_OTHER) else f"{label}{_OTHER}"


def identities_trained(shared: Path) -> Figures:
    """Classes cut in two, features of a network that was trained on them for ten epochs."""
    data = load(str(shared / "data"), seed=0)
    found: Figures = {}
    for share, flipped in product(SHARES, FLIPPED):
        images = _condition(data.train, share, flipped)
        trained = train(replace(data, train=images), epochs=EPOCHS, seed=0, progress=lambda _done, _total: None)
        backbone = build_backbone(trained.architecture).module
        state = trained.state_dict
        backbone.load_state_dict({key.removeprefix(_BODY): state[key] for key in state if key.startswith(_BODY)})
        splits = [_split(some, features(backbone, trained.preprocessing, some)[0]) for some in (images, data.test)]
        model = AuditModel(
            head=Head(state["head.weight"], state["head.bias"]),
            loss=ProxyNCA(state["loss.proxies"], trained.loss.scale),
            classes=trained.classes,
        )
        found |= _named(share, flipped, compared(splits[0]) | audited(splits[0], splits[1], model))
    return found


def identities_frozen(shared: Path) -> Figures:
    """The same on features of MobileNetV2 as ImageNet has taught it, by these alone."""
    data = load(str(shared / "data"), seed=0)
    backbone = build_backbone(Architecture(name="mobilenet_v2")).module
    weights = shared / "models" / "mobilenet_v2_imagenet_fp16.safetensors"
    state = tensors_of(read_checkpoint(weights), name=weights.name)
    backbone.load_state_dict({key: state[key].to(value.dtype) for key, value in backbone.state_dict().items()})
    x_NF, _ = features(backbone, MOBILENET, data.train)
    found: Figures = {}
    for share, flipped in product(SHARES, FLIPPED):
        found |= _named(share, flipped, compared(_split(_condition(data.train, share, flipped), x_NF)))
    return found


def _condition(images: Sequence[DemoImage], share: float, flipped: float) -> list[DemoImage]:
    return flip(cut(images, share=share, seed=0), share=flipped, seed=0)


def _split(images: Sequence[DemoImage], x_NF: Tensor) -> AuditSplit:
    return AuditSplit(
        sample_ids=[image.sample_id for image in images],
        labels=[image.label for image in images],
        features_NF=x_NF,
        digests=[None] * len(images),
    )


def _named(share: float, flipped: float, figures: Figures) -> Figures:
    return {f"cut_{share:g}_flipped_{flipped:g}_{name}": value for name, value in figures.items()}

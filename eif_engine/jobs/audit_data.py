"""What the stages of an audit work on: both splits checked, their labels as class indices, and their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from eif_engine.audit_types import AuditModel, AuditSplit
from eif_engine.errors import InvalidInput, LabelUnknown
from eif_engine.functional.neighbors import blocks
from eif_engine.models.head import Head


@dataclass(frozen=True, kw_only=True)
class Samples:
    """A split.

    Attributes:
        name: `train` or `test`.
        split: As given.
        classes: Labels by class index.
        codes_N: Class index of each sample.
        embeddings_ND: Their embeddings; the features themselves (the same tensor) where there is no model.
    """

    name: str
    split: AuditSplit
    classes: Sequence[str]
    codes_N: Tensor
    embeddings_ND: Tensor

    def __len__(self) -> int:
        return len(self.split)

    @property
    def ids(self) -> list[str]:
        """Sample ids."""
        return self.split.sample_ids

    @property
    def labels(self) -> list[str]:
        """Labels as given."""
        return self.split.labels

    @property
    def features_NF(self) -> Tensor:
        """Features, or embeddings where there is no model."""
        return self.split.features_NF


@dataclass(frozen=True, kw_only=True)
class AuditData:
    """Both splits, and the model where there is one."""

    train: Samples
    test: Samples
    model: AuditModel | None


def prepare(train: AuditSplit, test: AuditSplit, model: AuditModel | None) -> AuditData:
    """Check and embed.

    Raises:
        InvalidInput: A split is not what it should be, or the two do not fit each other or the model.
        LabelUnknown: A training label is not among the classes of the model.
    """
    for name, split in (("train", train), ("test", test)):
        _check(name, split)
    F = train.features_NF.shape[1]
    if test.features_NF.shape[1] != F:
        raise InvalidInput(f"test has {test.features_NF.shape[1]} features, but train has {F}", field="test")
    if model is not None and model.head.weight_DF.shape[1] != F:
        raise InvalidInput(f"train has {F} features, but the head takes {model.head.weight_DF.shape[1]}", field="train")
    classes = model.classes if model else sorted(set(train.labels))
    return AuditData(
        train=_samples("train", train, classes, model),
        test=_samples("test", test, sorted(set(test.labels)), model),
        model=model,
    )


def embed(head: Head, x_NF: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Embeddings, made in float64 so that machines agree, and kept in `dtype`."""
    exact = head.to(device=x_NF.device, dtype=torch.float64)
    found_ND = torch.empty(len(x_NF), len(exact.bias_D), dtype=dtype, device=x_NF.device)
    for part in blocks(len(x_NF), x_NF.shape[1], 8):
        found_ND[part] = exact.embed(x_NF[part].double()).to(dtype)
    return found_ND


def _samples(name: str, split: AuditSplit, classes: Sequence[str], model: AuditModel | None) -> Samples:
    code = {label: index for index, label in enumerate(classes)}
    for sample_id, label in zip(split.sample_ids, split.labels, strict=True):
        if label not in code:
            raise LabelUnknown(
                f"training sample {sample_id!r} has the label {label!r}, which is not among the classes of the model",
                label=label,
                sample_id=sample_id,
            )
    x_NF = split.features_NF
    return Samples(
        name=name,
        split=split,
        classes=classes,
        codes_N=torch.tensor([code[label] for label in split.labels], dtype=torch.int64, device=x_NF.device),
        embeddings_ND=x_NF if model is None else embed(model.head, x_NF),
    )


def _check(name: str, split: AuditSplit) -> None:
    count = len(split.sample_ids)
    lengths = {"labels": len(split.labels), "features": len(split.features_NF), "digests": len(split.digests)}
    lengths |= {f"column {column!r}": len(values) for column, values in split.columns.items()}
    for what, length in lengths.items():
        if length != count:
            raise InvalidInput(f"{name}: {what} has {length} entries for {count} samples", field=name)
    if count < 2:
        raise InvalidInput(f"{name} has {count} sample(s) that could be read, but an audit needs two", field=name)
    if len(set(split.sample_ids)) != count:
        raise InvalidInput(f"{name}: sample ids are not unique", field=name)
    if split.features_NF.ndim != 2 or split.features_NF.shape[1] == 0:
        raise InvalidInput(f"{name}: features need the shape (samples, features), and at least one feature", field=name)
    for part in blocks(count, split.features_NF.shape[1], 4):
        if not bool(torch.isfinite(split.features_NF[part]).all()):
            raise InvalidInput(f"{name}: features has NaN or infinite values", field=name)

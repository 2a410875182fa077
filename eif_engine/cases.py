"""A case: a trained model reduced to arrays in one `.npz`, so that the science can be used and checked with no service.

Arrays: `train_features (N, F)`, `test_features (M, F)`, `head_weight (D, F)`, `head_bias (D,)` (absent: zeros),
`proxies (C, D)` (with K vectors a class: `(C, K, D)`, or `(C K, D)` with those of a class together; none for losses of
pairs and triplets), `train_labels (N,)` (class indices), `test_labels (M,)`; optional `train_ids`, `test_ids`,
`group_class`, `group_confused_classes`, and `meta` (JSON text that names the loss, see case_loss.py). Nothing in it is
unpickled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from eif_engine.case_arrays import CaseArrays
from eif_engine.case_loss import case_loss
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.pml_bank import with_bank
from eif_engine.models.head import Head


@dataclass(frozen=True, kw_only=True)
class Case:
    """A trained model and its data, as float64 tensors on the CPU.

    Attributes:
        head: The last linear layer.
        loss: The loss it was trained with.
        train_features_NF: Features of the training samples.
        train_labels_N: Their class indices, as given (possibly wrong).
        train_ids: Their ids; row numbers where the file has none.
        test_features_MF: Features of the test samples.
        test_labels: Labels of the test samples as text.
        test_ids: Their ids.
        confused_with: Of a class, the classes its group is restricted to, where the file says so.
    """

    head: Head
    loss: ProxyLoss
    train_features_NF: Tensor
    train_labels_N: Tensor
    train_ids: list[str]
    test_features_MF: Tensor
    test_labels: list[str]
    test_ids: list[str]
    confused_with: dict[str, list[str]]


def load_case(path: Path) -> Case:
    """Read a case.

    Raises:
        InvalidInput: The file or one of its arrays is not what it should be; the message names it.
    """
    arrays = CaseArrays(path)
    weight_DF = arrays.floats("head_weight", 2)
    D, F = weight_DF.shape
    train_MF, test_MF = arrays.floats("train_features", 2), arrays.floats("test_features", 2)
    for name, features in (("train_features", train_MF), ("test_features", test_MF)):
        if features.shape[1] != F:
            raise arrays.fault(name, f"has {features.shape[1]} columns, but head_weight has {F}")
    bias_D = arrays.floats("head_bias", 1) if "head_bias" in arrays else torch.zeros(D, dtype=torch.float64)
    if len(bias_D) != D:
        raise arrays.fault("head_bias", f"has {len(bias_D)} entries, but head_weight has {D} rows")
    labels_N = torch.from_numpy(arrays.integers("train_labels", len(train_MF)))
    loss = case_loss(arrays, labels_N, embedding_dim=D)
    if len(labels_N) and not (int(labels_N.min()) >= 0 and int(labels_N.max()) < loss.num_classes):
        raise arrays.fault("train_labels", f"has values outside [0, {loss.num_classes}), the classes of `proxies`")
    head = Head(weight_DF, bias_D)
    return Case(
        head=head,
        loss=with_bank(loss, head, train_MF, labels_N),
        train_features_NF=train_MF,
        train_labels_N=labels_N,
        train_ids=arrays.texts("train_ids", len(train_MF))
        if "train_ids" in arrays
        else [str(i) for i in range(len(train_MF))],
        test_features_MF=test_MF,
        test_labels=arrays.texts("test_labels", len(test_MF)),
        test_ids=arrays.texts("test_ids", len(test_MF))
        if "test_ids" in arrays
        else [str(i) for i in range(len(test_MF))],
        confused_with=_confused_with(arrays),
    )


def _confused_with(arrays: CaseArrays) -> dict[str, list[str]]:
    if "group_class" not in arrays or "group_confused_classes" not in arrays:
        return {}
    group = str(arrays.raw("group_class").reshape(-1)[0])
    return {group: [str(label) for label in arrays.raw("group_confused_classes").reshape(-1)]}

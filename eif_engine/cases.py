"""A case: a trained model reduced to arrays in one `.npz`, so that the science can be used and checked with no service.

Arrays: `train_features (N, F)`, `test_features (M, F)`, `head_weight (D, F)`, `head_bias (D,)` (absent: zeros),
`proxies (C, D)` (SoftTriple: `(C, K, D)`, or `(C K, D)` with the centres of a class together), `train_labels (N,)`
(class indices), `test_labels (M,)`; optional `train_ids`, `test_ids`, `group_class`, `group_confused_classes`, and
`meta` (JSON text with `loss` and its settings). Nothing in it is unpickled.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.errors import InvalidInput
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.losses.soft_triple import SoftTriple
from eif_engine.models.head import Head


@dataclass(frozen=True, kw_only=True)
class Case:
    """A trained model and its data, as float64 tensors on the CPU.

    Attributes:
        head: The last linear layer.
        loss: The loss it was trained with.
        train_features_NF: Features of the training samples.
        train_labels_N: Their class indices, as given (possibly wrong).
        test_features_MF: Features of the test samples.
        test_labels: Labels of the test samples as text.
        test_ids: Their ids.
        confused_with: Of a class, the classes its group is restricted to, where the file says so.
    """

    head: Head
    loss: ProxyLoss
    train_features_NF: Tensor
    train_labels_N: Tensor
    test_features_MF: Tensor
    test_labels: list[str]
    test_ids: list[str]
    confused_with: dict[str, list[str]]


def load_case(path: Path) -> Case:
    """Read a case.

    Raises:
        InvalidInput: The file or one of its arrays is not what it should be; the message names it.
    """
    arrays = _Arrays(path)
    weight_DF = arrays.floats("head_weight", 2)
    D, F = weight_DF.shape
    train_MF, test_MF = arrays.floats("train_features", 2), arrays.floats("test_features", 2)
    for name, features in (("train_features", train_MF), ("test_features", test_MF)):
        if features.shape[1] != F:
            raise arrays.fault(name, f"has {features.shape[1]} columns, but head_weight has {F}")
    bias_D = arrays.floats("head_bias", 1) if "head_bias" in arrays else torch.zeros(D, dtype=torch.float64)
    if len(bias_D) != D:
        raise arrays.fault("head_bias", f"has {len(bias_D)} entries, but head_weight has {D} rows")
    loss = _loss(arrays, D)
    labels_N = torch.from_numpy(arrays.integers("train_labels", len(train_MF)))
    if len(labels_N) and not (int(labels_N.min()) >= 0 and int(labels_N.max()) < loss.num_classes):
        raise arrays.fault("train_labels", f"has values outside [0, {loss.num_classes}), the classes of `proxies`")
    return Case(
        head=Head(weight_DF, bias_D),
        loss=loss,
        train_features_NF=train_MF,
        train_labels_N=labels_N,
        test_features_MF=test_MF,
        test_labels=arrays.texts("test_labels", len(test_MF)),
        test_ids=arrays.texts("test_ids", len(test_MF))
        if "test_ids" in arrays
        else [str(i) for i in range(len(test_MF))],
        confused_with=_confused_with(arrays),
    )


def _loss(arrays: _Arrays, D: int) -> ProxyLoss:
    meta = arrays.meta()
    name = meta.get("loss", "proxy_nca")
    proxies = arrays.floats("proxies", None)
    if proxies.shape[-1] != D:
        raise arrays.fault("proxies", f"has last dimension {proxies.shape[-1]}, but embeddings have size {D}")
    if name == "proxy_nca" and proxies.ndim == 2:
        return ProxyNCA(proxies, float(meta.get("scale", 3.0)))
    if name == "soft_triple" and proxies.ndim in {2, 3}:
        centers = int(meta.get("K", meta.get("centers_per_class", 1 if proxies.ndim == 2 else proxies.shape[1])))
        if centers < 1 or proxies.numel() % (centers * D) != 0:
            raise arrays.fault("proxies", f"of shape {tuple(proxies.shape)} does not hold {centers} centres a class")
        return SoftTriple(
            proxies.reshape(-1, centers, D),
            lambda_=float(meta.get("lambda", 20.0)),
            gamma=float(meta.get("gamma", 0.1)),
            margin=float(meta.get("margin", 0.01)),
        )
    if name in {"proxy_nca", "soft_triple"}:
        raise arrays.fault("proxies", f"has shape {tuple(proxies.shape)}, which does not fit loss {name}")
    raise arrays.fault("meta", f"names loss {name!r}; known are proxy_nca and soft_triple")


def _confused_with(arrays: _Arrays) -> dict[str, list[str]]:
    if "group_class" not in arrays or "group_confused_classes" not in arrays:
        return {}
    group = str(arrays.raw("group_class").reshape(-1)[0])
    return {group: [str(label) for label in arrays.raw("group_confused_classes").reshape(-1)]}


class _Arrays:
    """The arrays of a file, checked as they are read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            file: Any = np.load(path, allow_pickle=False)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InvalidInput(f"{path}: cannot be read as an .npz of arrays: {error}", uri=str(path)) from error
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise InvalidInput(f"{path}: is one array, not an .npz of named arrays", uri=str(path))
        self._file = file

    def __contains__(self, name: str) -> bool:
        return name in self._file.files

    def fault(self, name: str, what: str) -> InvalidInput:
        return InvalidInput(f"{self._path}: array `{name}` {what}", uri=str(self._path), field=name)

    def raw(self, name: str) -> NDArray[Any]:
        if name not in self:
            raise self.fault(name, f"is missing; the file has {', '.join(sorted(self._file.files)) or 'nothing'}")
        try:
            array: NDArray[Any] = self._file[name]
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise self.fault(name, f"cannot be read: {error}") from error
        return array

    def floats(self, name: str, ndim: int | None) -> Tensor:
        array = self.raw(name)
        if array.dtype.kind not in "fiu" or (ndim is not None and array.ndim != ndim) or array.ndim == 0:
            wanted = f"{ndim} dimensions" if ndim is not None else "at least one dimension"
            raise self.fault(name, f"is {array.dtype} {array.shape}; numbers with {wanted} are needed")
        values = torch.from_numpy(array.astype(np.float64))
        if not bool(torch.isfinite(values).all()):
            raise self.fault(name, "has NaN or infinite values")
        return values

    def integers(self, name: str, length: int) -> NDArray[np.int64]:
        array = self.raw(name)
        if array.dtype.kind not in "iu" or array.shape != (length,):
            raise self.fault(name, f"is {array.dtype} {array.shape}; {length} whole numbers are needed")
        return array.astype(np.int64)

    def texts(self, name: str, length: int) -> list[str]:
        array = self.raw(name)
        if array.dtype.kind not in "iuUS" or array.shape != (length,):
            raise self.fault(name, f"is {array.dtype} {array.shape}; {length} labels or ids are needed")
        return [str(value) for value in array.tolist()]

    def meta(self) -> dict[str, Any]:
        if "meta" not in self:
            return {}
        try:
            meta = json.loads(str(self.raw("meta")))
        except json.JSONDecodeError as error:
            raise self.fault("meta", f"is not JSON: {error}") from error
        if not isinstance(meta, dict):
            raise self.fault("meta", "is not a JSON object")
        return meta

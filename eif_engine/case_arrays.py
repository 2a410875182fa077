"""The arrays of a case file, checked as they are read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.errors import InvalidInput


class CaseArrays:
    """An `.npz` of named arrays. Nothing in it is unpickled.

    Raises:
        InvalidInput: It cannot be read as one, or (from every method) an array is not what it should be.
    """

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
        """The error that names an array."""
        return InvalidInput(f"{self._path}: array `{name}` {what}", uri=str(self._path), field=name)

    def raw(self, name: str) -> NDArray[Any]:
        """As it is."""
        if name not in self:
            raise self.fault(name, f"is missing; the file has {', '.join(sorted(self._file.files)) or 'nothing'}")
        try:
            array: NDArray[Any] = self._file[name]
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise self.fault(name, f"cannot be read: {error}") from error
        return array

    def floats(self, name: str, ndim: int | None) -> Tensor:
        """Finite numbers, as float64; of any number of dimensions above 0 for None."""
        array = self.raw(name)
        if array.dtype.kind not in "fiu" or (ndim is not None and array.ndim != ndim) or array.ndim == 0:
            wanted = f"{ndim} dimensions" if ndim is not None else "at least one dimension"
            raise self.fault(name, f"is {array.dtype} {array.shape}; numbers with {wanted} are needed")
        values = torch.from_numpy(array.astype(np.float64))
        if not bool(torch.isfinite(values).all()):
            raise self.fault(name, "has NaN or infinite values")
        return values

    def integers(self, name: str, length: int) -> NDArray[np.int64]:
        """Whole numbers (length,)."""
        array = self.raw(name)
        if array.dtype.kind not in "iu" or array.shape != (length,):
            raise self.fault(name, f"is {array.dtype} {array.shape}; {length} whole numbers are needed")
        return array.astype(np.int64)

    def texts(self, name: str, length: int) -> list[str]:
        """Labels or ids (length,); integers become decimal text."""
        array = self.raw(name)
        if array.dtype.kind not in "iuUS" or array.shape != (length,):
            raise self.fault(name, f"is {array.dtype} {array.shape}; {length} labels or ids are needed")
        return [str(value) for value in array.tolist()]

    def meta(self) -> dict[str, Any]:
        """The JSON object of `meta`; empty where there is none."""
        if "meta" not in self:
            return {}
        try:
            meta = json.loads(str(self.raw("meta")))
        except json.JSONDecodeError as error:
            raise self.fault("meta", f"is not JSON: {error}") from error
        if not isinstance(meta, dict):
            raise self.fault("meta", "is not a JSON object")
        return meta

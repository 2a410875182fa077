"""What the screen has said of test labels, kept for the next audit of the same test set with the same model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from eif_engine import __version__
from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import AuditModel, AuditSplit, Screened
from services.influence.worker.kept import Kept, key_of

_FLOATS = ("issue_score_M", "suggested_probability_M")
_CODES = ("suggested_label_M", "alternative_label_M")
_FLAG_ABOVE = "flag_above"


def screen_key(test: AuditSplit, model: AuditModel | None, config: AuditConfig) -> str:
    """Of all that the screen depends on: ids are told apart because ties are broken by them."""
    head = () if model is None else (model.head.weight_DF, model.head.bias_D)
    arrays = [np.ascontiguousarray(part.cpu().numpy()) for part in (test.features_NF, *head)]
    told = json.dumps([__version__, repr(config.issues), test.features_NF.device.type, [a.shape for a in arrays]])
    return key_of(told, json.dumps([test.sample_ids, test.labels]), *(array.data.cast("B") for array in arrays))


def kept_screen(kept: Kept, key: str, samples: int) -> Screened | None:
    """The screen of an earlier audit; None where there is none."""
    content = kept.get(key)
    if content is None:
        return None
    try:
        arrays = load(content)
        probability_M, suggested_M = (_floats(arrays[name], samples) for name in _FLOATS)
        suggestion_M, alternative_M = (_codes(arrays[name], samples) for name in _CODES)
        return Screened(
            issue_score_M=probability_M,
            suggested_label_M=suggestion_M,
            suggested_probability_M=suggested_M,
            alternative_label_M=alternative_M,
            flag_above=float(_floats(arrays[_FLAG_ABOVE], 1)[0]),
        )
    except (SafetensorError, KeyError, ValueError):
        return None


def keep_screen(kept: Kept, key: str, screened: Screened | None) -> None:
    """Keep what the screen said, if there was one."""
    if screened is not None:
        arrays = {name: np.ascontiguousarray(getattr(screened, name)) for name in (*_FLOATS, *_CODES)}
        kept.put(key, save({**arrays, _FLAG_ABOVE: np.array([screened.flag_above])}))


def _floats(array: NDArray[Any], length: int) -> NDArray[np.float64]:
    return _checked(array, np.dtype(np.float64), length)


def _codes(array: NDArray[Any], length: int) -> NDArray[np.int64]:
    return _checked(array, np.dtype(np.int64), length)


def _checked(array: NDArray[Any], dtype: np.dtype[Any], length: int) -> NDArray[Any]:
    if array.dtype != dtype or array.shape != (length,):
        raise ValueError(f"{array.dtype} {array.shape} is not {dtype} ({length},)")
    return array

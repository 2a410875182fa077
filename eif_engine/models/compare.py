"""A state dict held against the network that is to take it: keys, shapes and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

MAX_NAMED = 8
_COUNTER = "num_batches_tracked"  # a counter that no forward pass reads, and that old checkpoints lack


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """One way in which a state dict does not fit.

    Attributes:
        code: KEYS_MISSING, KEYS_UNEXPECTED, SHAPES or NOT_FINITE.
        message: Names the keys.
        keys: The keys.
    """

    code: str
    message: str
    keys: tuple[str, ...]


def compare(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[Mismatch]:
    """Every way in which `given` does not fit `expected`."""
    missing = [key for key in expected if key not in given and not key.endswith(_COUNTER)]
    unexpected = [key for key in given if key not in expected]
    shapes = [key for key in expected if key in given and expected[key].shape != given[key].shape]
    broken = [key for key in given if key in expected and not _is_finite(given[key])]
    found = (
        ("KEYS_MISSING", missing, _missing(missing, unexpected)),
        ("KEYS_UNEXPECTED", unexpected, f"{len(unexpected)} key(s) that the model does not have: {_named(unexpected)}"),
        (
            "SHAPES",
            shapes,
            f"{len(shapes)} key(s) of another shape: {_named([_shapes(k, expected, given) for k in shapes])}",
        ),
        ("NOT_FINITE", broken, f"{len(broken)} key(s) with NaN or infinite values: {_named(broken)}"),
    )
    return [Mismatch(code=code, message=message, keys=tuple(keys)) for code, keys, message in found if keys]


def _is_finite(value: Tensor) -> bool:
    """Also in float32, in which everything is computed."""
    return not value.is_floating_point() or bool(torch.isfinite(value.float()).all())


def _missing(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    hints = [_with_near_match(key, unexpected) for key in missing[:MAX_NAMED]]
    return f"{len(missing)} key(s) missing: {_named(hints, total=len(missing))}"


def _with_near_match(key: str, others: Sequence[str]) -> str:
    near = get_close_matches(key, others[:2000], n=1)
    return f"{key} (there is {near[0]})" if near else key


def _shapes(key: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    return f"{key} is {tuple(given[key].shape)}, the model needs {tuple(expected[key].shape)}"


def _named(keys: Sequence[str], *, total: int | None = None) -> str:
    total = len(keys) if total is None else total
    rest = f" and {total - MAX_NAMED} more" if total > MAX_NAMED else ""
    return "; ".join(keys[:MAX_NAMED]) + rest

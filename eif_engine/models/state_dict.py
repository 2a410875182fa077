"""From what a checkpoint file holds to the one naming of the engine.

backbone.*                       as the architecture names its parameters and buffers
head.weight (D, F), head.bias (D)
loss.*                           see loss_state.py
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eif_engine.errors import CheckpointIncompatible
from eif_engine.models.bundle import WeightsFormat

_NESTED = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
_PARALLEL = "module."
_TOP_LEVEL = frozenset({"proxies", "centers"})


def tensors_of(content: object, *, name: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint, from a state dict or from a training checkpoint that has one inside.

    Args:
        content: What `read_checkpoint` gave.
        name: Name of the file, for the error.

    Returns:
        Tensors by key, `module.` of a data-parallel model stripped. A lone tensor has the key "".

    Raises:
        CheckpointIncompatible: There are none.
    """
    if isinstance(content, Tensor):
        return {"": content.detach()}
    if not isinstance(content, Mapping):
        raise CheckpointIncompatible(f"{name} holds a {type(content).__name__}, not a state dict", keys="")
    inner = next((content[key] for key in _NESTED if _has_tensors(content.get(key))), None)
    state = _plain(inner if inner is not None else content)
    if inner is not None:
        state |= {key: value for key, value in _plain(content).items() if key in _TOP_LEVEL}
    if not state:
        raise CheckpointIncompatible(
            f"{name} holds no tensors: its keys are {', '.join(map(repr, list(content)[:10]))}; a state dict is "
            f"looked for at the top and under {', '.join(_NESTED)}",
            keys="",
        )
    return state


def canonical(state: Mapping[str, Tensor], layout: WeightsFormat) -> dict[str, Tensor]:
    """Rename keys to `backbone.*`, `head.*`, `loss.*`. Keys that are none of these keep their name."""
    rename = _from_published if layout is WeightsFormat.EIF_PUBLISHED else _from_state_dict(state)
    return {rename(key): value for key, value in state.items()}


def _has_tensors(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _plain(mapping: Mapping[object, object]) -> dict[str, Tensor]:
    state = {str(key): value.detach() for key, value in mapping.items() if isinstance(value, Tensor)}
    if state and all(key.startswith(_PARALLEL) for key in state):
        return {key.removeprefix(_PARALLEL): value for key, value in state.items()}
    return state


def _from_published(key: str) -> str:
    """`Sequential(Feature(base=network), Linear)`: the published code wraps the network as `base`."""
    if key.startswith("0."):
        return "backbone." + key.removeprefix("0.").removeprefix("base.")
    if key.startswith("1."):
        return "head." + key.removeprefix("1.")
    return key


class _from_state_dict:  # noqa: N801 - used as the function it stands for
    """Keys of a bare network, without `backbone.` on any, get it."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._bare = not any(key.startswith("backbone.") for key in state)

    def __call__(self, key: str) -> str:
        if key in _TOP_LEVEL:
            return f"loss.{key}"
        if self._bare and not key.startswith(("head.", "loss.")):
            return f"backbone.{key}"
        return key

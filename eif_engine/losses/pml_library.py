"""Making a loss of pytorch-metric-learning from its name and arguments, which may come from a file."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eif_engine.errors import InvalidInput
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.pml_classes import DISTANCES
from eif_engine.losses.settings import PmlSettings

_NOT_FROM_A_FILE = frozenset(
    {
        "num_classes",
        "embedding_size",
        "distance",  # by name, below
        "collect_stats",
        "embedding_reg_weight",
        "embedding_regularizer",
        "mat_based_loss",
        "reducer",
        "swap",  # asks for distances between representatives, which the library looks for among the samples
        "triplets_per_anchor",  # every triplet counts: a random few would make the loss random
        "weight_init_func",
        "weight_reg_weight",
        "weight_regularizer",
    }
)


def library_loss(settings: PmlSettings, **sizes: int) -> nn.Module:
    """The loss, in eval mode, which returns its terms and not their mean; its parameters are not initialised.

    Args:
        settings: Its class and arguments.
        **sizes: `num_classes` and `embedding_size`, of a loss that has parameters.

    Raises:
        InvalidInput: An argument is none of the class, or of another type, or the class refuses it.
    """
    from pytorch_metric_learning import distances, losses, reducers

    library_class = getattr(losses, settings.class_)
    check_arguments(settings, allowed=_arguments(library_class))
    values: dict[str, Any] = dict(settings.arguments)
    if "distance" in values:
        values["distance"] = getattr(distances, values["distance"])()
    if sizes:
        # Parameters are loaded right after; drawing them would move the global random state.
        values |= sizes | {"weight_init_func": _leave}
    try:
        with warnings.catch_warnings():  # some classes use NumPy in ways that it will drop
            warnings.simplefilter("ignore", DeprecationWarning)
            loss: nn.Module = library_class(**values, reducer=reducers.DoNothingReducer())
    except Exception as error:  # the library checks its arguments by whatever they break
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InvalidInput(f"arguments: {settings.class_} refuses {settings.arguments}: {reason}") from error
    return loss.eval()


def check_arguments(settings: PmlSettings, *, allowed: Mapping[str, object]) -> None:
    """Raise InvalidInput for an argument that is not among `allowed` (name to default), or has another type."""
    for name, value in settings.arguments.items():
        if name == "distance":
            if value not in DISTANCES:
                raise InvalidInput(f"arguments.distance: is {value!r}, not one of {', '.join(DISTANCES)}")
        elif name not in allowed:
            raise InvalidInput(
                f"arguments.{name}: cannot be set; {settings.class_} takes {', '.join([*allowed, 'distance'])}"
            )
        elif not _same_kind(value, allowed[name]):
            raise InvalidInput(f"arguments.{name}: is {value!r}, but its default is {allowed[name]!r}")


def check_values(loss: ProxyLoss, settings: PmlSettings, like: Tensor) -> None:
    """Raise InvalidInput if the library fails on embeddings like `like`, or gives no number, with these arguments."""
    z_BD = torch.arange(2 * loss.embedding_dim, device=like.device, dtype=like.dtype).cos().reshape(2, -1)
    labels_B = torch.arange(2, device=like.device).clamp_max(loss.num_classes - 1)
    try:
        values_B = loss.per_sample(z_BD, labels_B)
    except Exception as error:  # of what it was given, it finds some out only now
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InvalidInput(f"arguments: {settings.class_} fails with {settings.arguments}: {reason}") from error
    if not bool(values_B.isfinite().all()):
        raise InvalidInput(f"arguments: {settings.class_} gives {values_B.tolist()} with {settings.arguments}")


def is_average_of_positive(loss: nn.Module) -> bool:
    """Whether the library reduces the loss to the mean of its terms above 0, and not of all of them."""
    from pytorch_metric_learning import reducers

    found = loss.get_default_reducer()  # type: ignore[operator]  # torch types attributes of modules as tensors too
    if not isinstance(found, reducers.AvgNonZeroReducer | reducers.MeanReducer):
        raise NotImplementedError(f"{type(loss).__name__} reduces by {type(found).__name__}")
    return isinstance(found, reducers.AvgNonZeroReducer)


def _arguments(library_class: type) -> dict[str, object]:
    """Arguments of the constructor and of those it hands `**kwargs` to, with their defaults."""
    found: dict[str, object] = {}
    for cls in library_class.__mro__:
        if "__init__" in vars(cls) and cls.__module__.startswith("pytorch_metric_learning."):
            for name, parameter in inspect.signature(vars(cls)["__init__"]).parameters.items():
                if parameter.default is not parameter.empty:
                    found.setdefault(name, parameter.default)
    return {name: default for name, default in found.items() if name not in _NOT_FROM_A_FILE}


def _same_kind(value: object, default: object) -> bool:
    numbers = (int, float)
    if isinstance(default, numbers) and not isinstance(default, bool):
        return isinstance(value, numbers) and not isinstance(value, bool)
    return type(value) is type(default)


def _leave(parameter: Tensor) -> None:
    """Initialise nothing."""

"""Parameters of the loss, from whatever layout they were saved in.

    ours                        loss.proxies (C, D)         loss.centers (C, K, D)
    published EIF               proxies (C, D)              proxies (C * K, D)
    pytorch-metric-learning     proxies (C, D), W (D, C)    fc (D, C * K), W (D, C * K)
    SoftTriple's own code                                   fc (D, C * K)
    common ArcFace heads        weight (C, D)

`W` is that of pytorch-metric-learning's ArcFace, CosFace and NormalizedSoftmax, with K sub-centres of its
SubCenterArcFace. Vectors of one class lie side by side in all of them. Only names tell (C * K, D) from (D, C * K) when
both numbers are equal: `fc` and `W` are the latter.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eif_engine.errors import CheckpointIncompatible
from eif_engine.losses.settings import LossSettings, PmlSettings, SoftTripleSettings, has_parameters

_NAMES = ("proxies", "centers", "fc", "W", "weight")
_COLUMNS = ("fc", "W")
_PREFIXES = ("loss.", "", "criterion.", "loss_func.")


def is_loss_key(key: str) -> bool:
    """Whether `loss_parameters` would take this key."""
    return key in _candidates()


def loss_parameters(
    state: Mapping[str, Tensor], settings: LossSettings, *, num_classes: int, embedding_dim: int, name: str
) -> Tensor | None:
    """Learnt vectors (C, K, D) of the classes; None for a loss that has none.

    Args:
        state: Tensors of the file that holds the loss.
        settings: Which loss.
        num_classes: C.
        embedding_dim: D.
        name: Name of the file, for the error.

    Raises:
        CheckpointIncompatible: They are not there, or are for other classes or another embedding size.
    """
    if not has_parameters(settings):
        return None
    key = next((key for key in ("", *_candidates()) if key in state), None)
    if key is None:
        raise CheckpointIncompatible(
            f"{name} has no parameters of the loss {settings.name}: looked for {', '.join(_NAMES)}, found "
            f"{', '.join(list(state)[:10])}; the loss must be saved too, e.g. torch.save(loss.state_dict(), ...)",
            keys=",".join(_NAMES),
        )
    shape = (num_classes, centers_per_class(settings), embedding_dim)
    found = _vectors(state[key], key, shape, by_center=isinstance(settings, SoftTripleSettings | PmlSettings))
    if isinstance(found, Tensor):
        return found
    shown = key or "the tensor"
    raise CheckpointIncompatible(
        f"{name}: {shown} has shape {tuple(state[key].shape)}, but model.json names {num_classes} classes and "
        f"embedding_dim {embedding_dim}, so loss {settings.name} needs {found}",
        keys=shown,
    )


def centers_per_class(settings: LossSettings) -> int:
    """K; 1 for a loss with one vector a class."""
    return settings.centers_per_class if isinstance(settings, SoftTripleSettings | PmlSettings) else 1


def _candidates() -> tuple[str, ...]:
    return tuple(prefix + name for prefix in _PREFIXES for name in _NAMES)


def _vectors(value: Tensor, key: str, wanted: tuple[int, int, int], *, by_center: bool) -> Tensor | str:
    """The vectors (C, K, D), or the shapes that were looked for. Rows come before columns, but for names of columns."""
    c, k, d = wanted
    shape, rows, columns = tuple(value.shape), (c * k, d), (d, c * k)
    named_columns = key.rpartition(".")[2] in _COLUMNS
    if shape == columns and (named_columns or (by_center and columns != rows)):
        return value.T.reshape(c, k, d)
    if shape == rows or (by_center and shape == wanted):
        return value.reshape(c, k, d)
    if by_center:
        return f"{wanted}, {rows} or {columns} (C classes, K centers, D)"
    return f"{columns} (embedding_dim, classes)" if named_columns else f"{rows} (classes, embedding_dim)"

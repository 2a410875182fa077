"""Parameters of the loss, from whatever layout they were saved in.

    ours                        loss.proxies (C, D)         loss.centers (C, K, D)
    published EIF               proxies (C, D)              proxies (C * K, D)
    pytorch-metric-learning     proxies (C, D)              fc (D, C * K)
    SoftTriple's own code                                   fc (D, C * K)

Centres of one class lie side by side in all of them. Only names tell (C * K, D) from (D, C * K) when both numbers are
equal: `fc` is the latter.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from eif_engine.errors import CheckpointIncompatible
from eif_engine.models.bundle import ModelBundle, ProxyNcaSettings

_NAMES = ("proxies", "centers", "fc")
_PREFIXES = ("loss.", "", "criterion.", "loss_func.")


def is_loss_key(key: str) -> bool:
    """Whether `loss_parameters` would take this key."""
    return key in _candidates()


def loss_parameters(state: Mapping[str, Tensor], bundle: ModelBundle, *, name: str) -> Tensor:
    """Proxies (C, D) or centres (C, K, D), as the loss of the bundle needs them.

    Args:
        state: Tensors of the file that holds the loss.
        bundle: Says which loss, how many classes and which embedding size.
        name: Name of the file, for the error.

    Raises:
        CheckpointIncompatible: They are not there, or are for other classes or another embedding size.
    """
    keys = [key for key in ("", *_candidates()) if key in state]
    if not keys:
        raise CheckpointIncompatible(
            f"{name} has no parameters of the loss {bundle.loss.name}: looked for {', '.join(_NAMES)}, found "
            f"{', '.join(list(state)[:10])}; the loss must be saved too, e.g. torch.save(loss.state_dict(), ...)",
            keys=",".join(_NAMES),
        )
    key = keys[0]
    if isinstance(bundle.loss, ProxyNcaSettings):
        return _proxies(state[key], key, bundle, name)
    return _centers(state[key], key, bundle, bundle.loss.centers_per_class, name)


def _candidates() -> tuple[str, ...]:
    return tuple(prefix + name for prefix in _PREFIXES for name in _NAMES)


def _proxies(value: Tensor, key: str, bundle: ModelBundle, name: str) -> Tensor:
    wanted = (len(bundle.classes), bundle.embedding_dim)
    if tuple(value.shape) != wanted:
        raise _mismatch(value, key, bundle, name, f"{wanted} (classes, embedding_dim)")
    return value


def _centers(value: Tensor, key: str, bundle: ModelBundle, k: int, name: str) -> Tensor:
    c, d = len(bundle.classes), bundle.embedding_dim
    shape = tuple(value.shape)
    if shape == (c, k, d):
        return value
    columns = shape == (d, c * k)
    if columns and (key.endswith("fc") or shape != (c * k, d)):
        return value.T.reshape(c, k, d)
    if shape == (c * k, d):
        return value.reshape(c, k, d)
    raise _mismatch(value, key, bundle, name, f"{(c, k, d)}, {(c * k, d)} or {(d, c * k)} (C classes, K centers, D)")


def _mismatch(value: Tensor, key: str, bundle: ModelBundle, name: str, wanted: str) -> CheckpointIncompatible:
    shown = key or "the tensor"
    return CheckpointIncompatible(
        f"{name}: {shown} has shape {tuple(value.shape)}, but model.json names {len(bundle.classes)} classes and "
        f"embedding_dim {bundle.embedding_dim}, so loss {bundle.loss.name} needs {wanted}",
        keys=shown,
    )

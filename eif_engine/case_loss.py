"""The loss that the `meta` of a case file names.

Either as in model.json, `{"loss": {"name": "arcface", "margin": 20}}`, or flat, `{"loss": "arcface", "margin": 20}`,
where other keys may stand beside (`K` for SoftTriple's `centers_per_class` too). Without `loss` it is ProxyNCA++.
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from eif_engine.case_arrays import CaseArrays
from eif_engine.errors import InvalidInput
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.make import make_loss
from eif_engine.losses.settings import LossSettings, has_parameters
from eif_engine.models.loss_state import centers_per_class
from eif_engine.models.schema import Strict, invalid

_ADAPTER: TypeAdapter[LossSettings] = TypeAdapter(LossSettings)
_SCHEMAS: dict[str, type[Strict]] = {
    schema.model_fields["name"].default: schema for schema in get_args(get_args(LossSettings)[0])
}


def case_loss(arrays: CaseArrays, labels_N: Tensor, *, embedding_dim: int) -> ProxyLoss:
    """The loss of a case, with the vectors of `proxies`; without a bank where it needs one.

    Args:
        arrays: Of the file.
        labels_N: Class indices of the training samples: they tell the classes of a loss without proxies.
        embedding_dim: D.

    Raises:
        InvalidInput: `meta` or `proxies` is not what it should be.
    """
    settings = _settings(arrays)
    if has_parameters(settings):
        vectors_CKD: Tensor | None = _vectors(arrays, settings, embedding_dim)
        num_classes = 0 if vectors_CKD is None else len(vectors_CKD)
    else:
        vectors_CKD, num_classes = None, int(labels_N.max()) + 1 if len(labels_N) else 1
    try:
        return make_loss(settings, vectors_CKD, num_classes=num_classes, embedding_dim=embedding_dim)
    except InvalidInput as error:
        raise arrays.fault("meta", f"names a loss that cannot be: {error.message}") from error


def _settings(arrays: CaseArrays) -> LossSettings:
    meta = arrays.meta()
    loss = meta.get("loss", "proxy_nca")
    fields = loss if isinstance(loss, dict) else _flat(arrays, meta, loss)
    try:
        settings = _ADAPTER.validate_python(fields)
    except ValidationError as error:
        raise arrays.fault("meta", f"names a loss that cannot be: {invalid(error, uri='loss').message}") from error
    return settings


def _flat(arrays: CaseArrays, meta: dict[str, Any], name: object) -> dict[str, Any]:
    """The settings among the keys of `meta`."""
    schema = _SCHEMAS.get(str(name))
    if schema is None:
        raise arrays.fault("meta", f"names loss {name!r}; known are {', '.join(_SCHEMAS)}")
    known = {info.alias or field for field, info in schema.model_fields.items()} - {"name"}
    found = {"name": name} | {key: meta[key] for key in known if key in meta}
    if "centers_per_class" in known and "centers_per_class" not in meta:
        proxies = arrays.floats("proxies", None)
        found["centers_per_class"] = meta.get("K", proxies.shape[1] if proxies.ndim == 3 else 1)
    return found


def _vectors(arrays: CaseArrays, settings: LossSettings, D: int) -> Tensor:
    """`proxies` as (C, K, D)."""
    proxies, K = arrays.floats("proxies", None), centers_per_class(settings)
    if proxies.shape[-1] != D:
        raise arrays.fault("proxies", f"has last dimension {proxies.shape[-1]}, but embeddings have size {D}")
    fits = proxies.shape[1] == K if proxies.ndim == 3 else proxies.ndim == 2 and len(proxies) % K == 0
    if not fits:
        raise arrays.fault(
            "proxies", f"of shape {tuple(proxies.shape)} does not fit loss {settings.name} with {K} vector(s) a class"
        )
    return proxies.reshape(-1, K, D)

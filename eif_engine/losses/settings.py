"""The loss of a model, as model.json and case files name it. No torch.

Defaults are those of the published losses, which are also those of pytorch-metric-learning.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from eif_engine.losses.pml_classes import BANK_CLASSES, MAX_CENTERS, PROXY_CLASSES, known_classes
from eif_engine.models.schema import Strict

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Centers = Annotated[int, Field(ge=1, le=MAX_CENTERS)]
Argument = bool | int | Annotated[float, Field(allow_inf_nan=False)] | Annotated[str, Field(max_length=64)]


class ProxyNcaSettings(Strict):
    """ProxyNCA++: one proxy a class; `scale` multiplies normalised embeddings and proxies (3 as published)."""

    name: Literal["proxy_nca"] = "proxy_nca"
    scale: Positive = 3.0


class SoftTripleSettings(Strict):
    """SoftTriple: `centers_per_class` centres a class; `lambda`, `gamma` and `margin` as in the paper."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    name: Literal["soft_triple"] = "soft_triple"
    lambda_: Positive = Field(default=20.0, alias="lambda")
    gamma: Positive = 0.1
    margin: NotNegative = 0.01
    centers_per_class: Centers = 1


class ProxyAnchorSettings(Strict):
    """Proxy-Anchor, per sample: `alpha` scales cosines, `margin` is theirs."""

    name: Literal["proxy_anchor"] = "proxy_anchor"
    margin: NotNegative = 0.1
    alpha: Positive = 32.0


class NormalizedSoftmaxSettings(Strict):
    """NormalizedSoftmax: cosines over `temperature`."""

    name: Literal["normalized_softmax"] = "normalized_softmax"
    temperature: Positive = 0.05


class CosFaceSettings(Strict):
    """CosFace: `margin` off the cosine of the label, then `scale`."""

    name: Literal["cosface"] = "cosface"
    scale: Positive = 64.0
    margin: NotNegative = 0.35


class ArcFaceSettings(Strict):
    """ArcFace: `margin` in degrees on the angle to the label, then `scale`."""

    name: Literal["arcface"] = "arcface"
    scale: Positive = 64.0
    margin: float = Field(default=28.6, ge=0, lt=180)


class BankSettings(Strict):
    """Representatives: the samples of a class are dealt by `seed` into `per_class` parts, and each part has a mean."""

    per_class: Centers = 1
    seed: int = Field(default=0, ge=0, lt=2**63)


class PmlSettings(Strict):
    """A loss of pytorch-metric-learning: its class, the arguments of its constructor, and the bank of a pair loss."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    name: Literal["pytorch_metric_learning"] = "pytorch_metric_learning"
    class_: str = Field(alias="class", max_length=64)
    arguments: dict[Annotated[str, Field(max_length=64)], Argument] = Field(default_factory=dict, max_length=32)
    bank: BankSettings | None = None

    @model_validator(mode="before")
    @classmethod
    def _bank_of_a_pair_loss(cls, fields: object) -> object:
        if isinstance(fields, dict) and fields.get("bank") is None:
            named = fields.get("class", fields.get("class_"))
            if isinstance(named, str) and named in BANK_CLASSES:
                return fields | {"bank": BankSettings()}
        return fields

    @model_validator(mode="after")
    def _class_is_known(self) -> PmlSettings:
        if self.class_ == "ProxyAnchorLoss":
            raise ValueError("class ProxyAnchorLoss has no value per sample: name the loss proxy_anchor instead")
        if self.class_ not in PROXY_CLASSES and self.class_ not in BANK_CLASSES:
            raise ValueError(f"class {self.class_!r} is none that has a value per sample: {known_classes()}")
        if self.bank is not None and self.class_ in PROXY_CLASSES:
            raise ValueError(f"bank is for losses of pairs and triplets; {self.class_} has learnt vectors")
        return self

    @model_validator(mode="after")
    def _sizes_are_small_numbers(self) -> PmlSettings:
        sizes = PROXY_CLASSES[self.class_].sizes if self.class_ in PROXY_CLASSES else {}
        for name, most in sizes.items():
            given = self.arguments.get(name, 1)
            if type(given) is not int or not 1 <= given <= most:
                raise ValueError(f"arguments.{name} is {given!r}, not a whole number from 1 to {most}")
        return self

    @property
    def centers_per_class(self) -> int:
        """K: learnt vectors of a class, or its representatives in the bank."""
        if self.bank is not None:
            return self.bank.per_class
        return PROXY_CLASSES[self.class_].centers_per_class(self.arguments)


LossSettings = Annotated[
    ProxyNcaSettings
    | SoftTripleSettings
    | ProxyAnchorSettings
    | NormalizedSoftmaxSettings
    | CosFaceSettings
    | ArcFaceSettings
    | PmlSettings,
    Field(discriminator="name"),
]


def has_parameters(settings: LossSettings) -> bool:
    """Whether the loss has learnt vectors, which a checkpoint must hold."""
    return not (isinstance(settings, PmlSettings) and settings.bank is not None)

"""The engine's form of the options of a request."""

from __future__ import annotations

from eif_engine.config import FirstOrder, InfluenceConfig, PublishedSteps, UnitStep
from services.influence.spec import (
    FirstOrderOptions,
    InfluenceOptions,
    PublishedStepsOptions,
    UnitStepOptions,
    UnitStepsOptions,
)


def influence_config(options: InfluenceOptions, seed: int) -> InfluenceConfig:
    """The engine's form of the options of a request."""
    return InfluenceConfig(
        step=_step(options),
        num_thetas=options.num_thetas,
        normalize=options.normalize,
        distance=options.distance,
        seed=seed,
        metric=options.metric,
        damping=options.damping,
    )


def _step(options: InfluenceOptions) -> UnitStep | PublishedSteps | FirstOrder:
    match options.step:
        case PublishedStepsOptions(steps=steps, learning_rate=learning_rate):
            return PublishedSteps(steps=steps, learning_rate=learning_rate)
        case UnitStepsOptions(radius=radius, steps=steps):
            return UnitStep(radius=radius, steps=steps)
        case FirstOrderOptions(radius=radius):
            return FirstOrder(radius=radius)
        case UnitStepOptions(radius=radius):
            return UnitStep(radius=radius)

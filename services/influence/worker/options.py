"""The engine's form of the options of a request."""

from __future__ import annotations

from eif_engine.config import InfluenceConfig, PublishedSteps, UnitStep
from services.influence.spec import InfluenceOptions, UnitStepOptions


def influence_config(options: InfluenceOptions, seed: int) -> InfluenceConfig:
    """The engine's form of the options of a request."""
    step = options.step
    return InfluenceConfig(
        step=UnitStep(radius=step.radius)
        if isinstance(step, UnitStepOptions)
        else PublishedSteps(steps=step.steps, learning_rate=step.learning_rate),
        num_thetas=options.num_thetas,
        normalize=options.normalize,
        distance=options.distance,
        seed=seed,
    )

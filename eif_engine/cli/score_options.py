"""What `score` can be told about the method, and the configurations that follow from it."""

from __future__ import annotations

import argparse

from eif_engine.config import FirstOrder, InfluenceConfig, Metric, PublishedSteps, UnitStep
from eif_engine.errors import InvalidInput
from eif_engine.functional.scope import ALL
from eif_engine.method_config import Method, MethodConfig

HEAD = "head"
"""The scope that needs no pass through the network."""

_METHODS = """\
eif (default): empirical influence: move the model a little so that the pair comes apart, see whose loss follows.
published_if, if_cg, if_ekfac: influence functions, the classic estimate by gradients and curvature; the
published recursion, conjugate gradient, EK-FAC.
loss, gradient_norm: how badly a sample is fitted, whatever the confusion; to compare with.
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add them to the command."""
    method = parser.add_argument_group("method", _METHODS)
    method.add_argument("--method", choices=[*Method], type=Method, default=Method.EIF, help="how samples are scored")
    method.add_argument(
        "--scope",
        default=HEAD,
        metavar="PATTERN",
        help="parameters that eif moves: `head` (default: the weight of the last layer), `all`, or those whose names "
        "match, as in `head.*` (a case file has head.weight and head.bias)",
    )
    method.add_argument(
        "--damping",
        type=float,
        metavar="C",
        help="added to the curvature, in shares of its mean eigenvalue (default 0.1; 10 for --metric kfac)",
    )
    add_steps(parser.add_argument_group("how far eif moves the model"))


def influence_config(args: argparse.Namespace) -> InfluenceConfig:
    """The configuration that the options ask for.

    Raises:
        InvalidInput: They contradict each other or are out of range.
    """
    _refuse_contradictions(args)
    values = {
        "step": _step(args),
        "num_thetas": args.thetas,
        "normalize": args.normalize,
        "seed": args.seed,
        "metric": args.metric,
        "damping": args.damping if args.metric is Metric.KFAC else None,
    }
    try:
        return InfluenceConfig(**{name: value for name, value in values.items() if value is not None})
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def method_config(args: argparse.Namespace) -> MethodConfig:
    """The settings of the baselines that the options ask for.

    Raises:
        InvalidInput: They are out of range.
    """
    values = {"damping": args.damping, "seed": args.seed}
    try:
        return MethodConfig(**{name: value for name, value in values.items() if value is not None})
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def scope_pattern(args: argparse.Namespace) -> str | None:
    """The pattern of parameter names, or None for the scope that needs none."""
    if args.scope == HEAD:
        return None
    return ALL if args.scope == "all" else str(args.scope)


def add_steps(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--radius", type=float, metavar="R", help="length of the way, in one step")
    group.add_argument(
        "--unit-steps",
        type=int,
        metavar="S",
        help="or in S, each newly aimed (default: 20, 0.2 in all)",
    )
    group.add_argument("--steps", type=int, metavar="S", help="plain gradient steps, as published, instead")
    group.add_argument("--lr", type=float, metavar="LR", help="their size (default 1e-3)")
    group.add_argument("--first-order", action="store_true", help="the limit of a short way: fast, for screening")
    group.add_argument("--metric", choices=[*Metric], type=Metric, help="what shortest means (default identity)")
    group.add_argument("--thetas", type=int, metavar="K", help="1 apart, 2 and together, more random (default 2)")
    group.add_argument(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="divide by |theta - theta_0| (the default; the published code does not)",
    )
    group.add_argument("--seed", type=int, help="of whatever is drawn at random (default 0)")


def _step(args: argparse.Namespace) -> UnitStep | PublishedSteps | FirstOrder:
    try:
        if args.steps is not None or args.lr is not None:
            return PublishedSteps(
                steps=50 if args.steps is None else args.steps, learning_rate=1e-3 if args.lr is None else args.lr
            )
        if args.first_order:
            return FirstOrder() if args.radius is None else FirstOrder(radius=args.radius)
        if args.radius is not None and args.unit_steps is None:
            return UnitStep(radius=args.radius)
        return UnitStep(
            radius=0.2 if args.radius is None else args.radius,
            steps=20 if args.unit_steps is None else args.unit_steps,
        )
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def _refuse_contradictions(args: argparse.Namespace) -> None:
    plain = args.steps is not None or args.lr is not None
    if plain and (args.radius is not None or args.unit_steps is not None):
        raise InvalidInput("--radius and --unit-steps are unit steps; each excludes --steps and --lr")
    if args.first_order and (plain or args.unit_steps is not None):
        raise InvalidInput("--first-order takes no steps: it excludes --steps, --lr and --unit-steps")
    if args.method is Method.EIF:
        if args.damping is not None and args.metric is not Metric.KFAC:
            raise InvalidInput("--damping is for methods if_cg and if_ekfac, and for --metric kfac")
        return
    if args.damping is not None and args.method not in {Method.IF_CG, Method.IF_EKFAC}:
        raise InvalidInput(f"--method {args.method.value} has no --damping")
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("radius", "unit_steps", "steps", "lr", "metric", "thetas", "normalize")
        if getattr(args, name) is not None
    ]
    given += ["--first-order"] if args.first_order else []
    given += ["--scope"] if args.scope != HEAD else []
    if given:
        raise InvalidInput(f"--method {args.method.value} excludes {', '.join(given)}: only eif has it")

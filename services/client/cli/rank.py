"""`eif rank`: which training samples are behind confusions."""

from __future__ import annotations

import click

from services.client.cli.choices import choice_option
from services.client.cli.options import POSITIVE, examples
from services.client.cli.submission import DIGEST_HELP, Submit, job_options
from services.client.cli.uris import to_uri
from services.client.specs import (
    Artifact,
    Distance,
    FirstOrder,
    Influence,
    Metric,
    PublishedSteps,
    Queries,
    QueryKind,
    UnitSteps,
)


@click.command(
    epilog=examples(
        "eif rank --model my-model --train train.parquet --test test.parquet --wait",
        "eif rank --model s3://b/model --train s3://b/train.csv --test s3://b/test.csv --kind group --class cat",
        "eif stream JOB --format jsonl     # then: the ranked sample ids",
    )
)
@click.option("--model", required=True, metavar="PATH|URI", help="The model bundle: the folder with model.json.")
@click.option("--train", required=True, metavar="PATH|URI", help="Manifest of the training samples.")
@click.option("--test", required=True, metavar="PATH|URI", help="Manifest of the samples that are confused.")
@click.option("--model-sha256", default="", metavar="HEX", help=f"Of model.json. {DIGEST_HELP}")
@click.option("--train-sha256", default="", metavar="HEX", help=DIGEST_HELP)
@click.option("--test-sha256", default="", metavar="HEX", help=DIGEST_HELP)
@choice_option(
    "--kind",
    kind=QueryKind,
    default=QueryKind.CONFUSION,
    help="What to explain: pairs that are confused, pairs of one class that lie far apart, or each class's confusions.",
)
@click.option("--max-queries", type=POSITIVE, metavar="N", help="Explain at most so many; all by default.")
@click.option("--pair", "pairs", nargs=2, multiple=True, metavar="ID ID", help="Only this pair of test samples.")
@click.option("--class", "classes", multiple=True, metavar="LABEL", help="Only confusions of this label.")
@click.option("--top-k", type=POSITIVE, metavar="N", help="Samples kept of each query's ends; 100 by default.")
@click.option("--radius", type=float, metavar="X", help="Move theta by one step of this length. Excludes --steps.")
@click.option(
    "--unit-steps",
    type=POSITIVE,
    metavar="N",
    help="Or by N, each newly aimed; 20, 0.2 in all, by default.",
)
@click.option("--first-order", is_flag=True, help="Take the limit of a short step: many times faster, for screening.")
@choice_option(
    "--metric", kind=Metric, default=Metric.IDENTITY, help="What is steepest: by the gradient, or by the curvature too."
)
@click.option("--damping", type=float, metavar="X", help="Of the curvature of --metric kfac; 10 by default.")
@click.option("--steps", type=POSITIVE, metavar="N", help="Step as the published code does, so often.")
@click.option("--lr", type=float, metavar="X", help="Step size of --steps; 0.001 by default.")
@click.option("--thetas", type=POSITIVE, metavar="N", default=2, show_default=True, help="Models compared.")
@click.option("--normalize/--no-normalize", default=True, show_default=True, help="Divide by |theta - theta_0|.")
@choice_option("--distance", kind=Distance, default=Distance.SQUARED_EUCLIDEAN, help="Of a pair.")
@job_options
def rank(
    *,
    model: str,
    train: str,
    test: str,
    model_sha256: str,
    train_sha256: str,
    test_sha256: str,
    kind: QueryKind,
    max_queries: int | None,
    pairs: tuple[tuple[str, str], ...],
    classes: tuple[str, ...],
    top_k: int | None,
    radius: float | None,
    unit_steps: int | None,
    first_order: bool,
    metric: Metric,
    damping: float | None,
    steps: int | None,
    lr: float | None,
    thetas: int,
    normalize: bool,
    distance: Distance,
) -> Submit:
    """Rank training samples by what they do to confusions.

    Looks for pairs of test samples that the model confuses, and ranks every training sample by its influence on them:
    above 0 it is harmful, below 0 helpful. Prints the name of the job; the job goes on after this command ends.
    """
    artifacts = {
        "model": Artifact(uri=to_uri(model), sha256=model_sha256),
        "train": Artifact(uri=to_uri(train), sha256=train_sha256),
        "test": Artifact(uri=to_uri(test), sha256=test_sha256),
    }
    queries = Queries(kind=kind, max_queries=max_queries, pairs=pairs, classes=classes)
    if damping is not None and metric is not Metric.KFAC:
        raise click.UsageError("--damping goes with --metric kfac")
    if unit_steps is not None and first_order:
        raise click.UsageError("--unit-steps and --first-order exclude each other")
    influence = Influence(
        step=_published(steps, lr, radius, unit_steps, first_order=first_order)
        or _unit(radius, unit_steps, first_order=first_order),
        num_thetas=thetas,
        normalize=normalize,
        distance=distance,
        metric=metric,
        damping=damping,
    )
    return lambda client, run, options: client.rank(
        **artifacts, queries=queries, influence=influence, top_k=top_k, run=run, options=options
    )


def _unit(radius: float | None, steps: int | None, *, first_order: bool) -> float | UnitSteps | FirstOrder:
    if first_order:
        return FirstOrder() if radius is None else FirstOrder(radius=radius)
    if radius is not None and steps is None:
        return radius
    default = UnitSteps()
    return UnitSteps(
        radius=default.radius if radius is None else radius, steps=default.steps if steps is None else steps
    )


def _published(
    steps: int | None, lr: float | None, radius: float | None, unit_steps: int | None, *, first_order: bool
) -> PublishedSteps | None:
    if steps is None:
        if lr is not None:
            raise click.UsageError("--lr goes with --steps")
        return None
    if radius is not None:
        raise click.UsageError("--radius and --steps exclude each other")
    if unit_steps is not None or first_order:
        raise click.UsageError("--steps excludes --unit-steps and --first-order")
    return PublishedSteps(steps=steps, learning_rate=1e-3 if lr is None else lr)

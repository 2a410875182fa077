"""`eif audit`: everything that a retraining loop asks of a model and its data, in one job."""

from __future__ import annotations

import click

from services.client.cli.options import COUNT, POSITIVE, examples
from services.client.cli.submission import DIGEST_HELP, Submit, job_options
from services.client.cli.uris import to_uri
from services.client.specs import Artifact, FirstOrder, Influence


@click.command(
    epilog=examples(
        "eif audit --model my-model --train train.parquet --test test.parquet --wait",
        "eif audit --model new-model --train train.csv --test test.csv --previous LAST --group-by annotator --wait",
        "eif audit --train-embeddings a.parquet --test-embeddings b.parquet --train train.csv --test test.csv --wait",
        "eif fetch JOB report.html          # then: the report",
        "eif gate JOB --baseline LAST_AUDIT # and the verdict",
    )
)
@click.option("--train", required=True, metavar="PATH|URI", help="Manifest of the training samples.")
@click.option("--test", required=True, metavar="PATH|URI", help="Manifest of the test samples.")
@click.option("--model", metavar="PATH|URI", help="The model bundle: the folder with model.json.")
@click.option("--model-sha256", default="", metavar="HEX", help=f"Of model.json. {DIGEST_HELP}")
@click.option("--train-sha256", default="", metavar="HEX", help=DIGEST_HELP)
@click.option("--test-sha256", default="", metavar="HEX", help=DIGEST_HELP)
@click.option(
    "--train-embeddings",
    metavar="PATH|URI",
    help="Instead of a model: Parquet with the columns id and embedding. Goes with --test-embeddings.",
)
@click.option("--test-embeddings", metavar="PATH|URI", help="The same for the test samples.")
@click.option("--decisions", metavar="PATH|URI", help="What was decided before, by `eif apply`.")
@click.option("--previous", metavar="JOB", help="An earlier audit: the report says what is new, fixed and persisting.")
@click.option("--group-by", multiple=True, metavar="COLUMN", help="Roll up by this column of the train manifest.")
@click.option("--top-k", type=POSITIVE, metavar="N", help="Samples kept per class from each end; 50 by default.")
@click.option("--proofs", type=COUNT, metavar="N", help="Confusion classes to prove by retraining; 3 by default.")
@click.option("--first-order", is_flag=True, help="Influence in the limit of a short step: many times faster.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write report.html.")
@job_options
def audit(
    *,
    train: str,
    test: str,
    model: str | None,
    model_sha256: str,
    train_sha256: str,
    test_sha256: str,
    train_embeddings: str | None,
    test_embeddings: str | None,
    decisions: str | None,
    previous: str | None,
    group_by: tuple[str, ...],
    top_k: int | None,
    proofs: int | None,
    first_order: bool,
    report: bool,
) -> Submit:
    """Audit a model and its data.

    Says what the model confuses, which training samples are behind it, which labels are wrong and what they should be,
    what is twice there or leaks, and proves what acting on it brings. Prints the name of the job.
    """
    embeddings = _embeddings(model, train_embeddings, test_embeddings)
    model_artifact = Artifact(uri=to_uri(model), sha256=model_sha256) if model is not None else None
    artifacts = {
        "train": Artifact(uri=to_uri(train), sha256=train_sha256),
        "test": Artifact(uri=to_uri(test), sha256=test_sha256),
    }
    decided = to_uri(decisions) if decisions is not None else None
    return lambda client, run, options: client.audit(
        **artifacts,
        model=model_artifact,
        embeddings=embeddings,
        decisions=decided,
        previous=previous,
        group_by=group_by,
        influence=Influence(step=FirstOrder()) if first_order else Influence(),
        top_k=top_k,
        proofs=proofs,
        report=report,
        run=run,
        options=options,
    )


def _embeddings(model: str | None, train: str | None, test: str | None) -> tuple[str, str] | None:
    if model is not None:
        if train is not None or test is not None:
            raise click.UsageError("--model excludes --train-embeddings and --test-embeddings")
        return None
    if train is None or test is None:
        raise click.UsageError("give --model, or --train-embeddings and --test-embeddings to work without one")
    return to_uri(train), to_uri(test)

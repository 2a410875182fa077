"""`eif relabel`: which labels are wrong, and what they should be."""

from __future__ import annotations

import click

from services.client.cli.choices import choice_option
from services.client.cli.options import POSITIVE, examples
from services.client.cli.submission import DIGEST_HELP, Submit, job_options
from services.client.cli.uris import to_uri
from services.client.specs import Artifact, HarmfulSamples, NeighborSpace, VoteRule


@click.command(
    epilog=examples(
        "eif relabel --model my-model --train train.parquet --wait",
        "eif relabel --model my-model --train train.parquet --harmful-of RANK_JOB --count 50 --wait",
        "eif relabel --index products --train s3://b/train.csv --sample img-17 --sample img-40",
        "eif results JOB --table relabel     # then: the suggestions",
    )
)
@click.option("--train", required=True, metavar="PATH|URI", help="Manifest of the training samples.")
@click.option("--model", metavar="PATH|URI", help="The model bundle: the folder with model.json.")
@click.option("--index", metavar="INDEX", help="Take neighbours from this index of the embedding service instead.")
@click.option("--train-sha256", default="", metavar="HEX", help=DIGEST_HELP)
@click.option("--model-sha256", default="", metavar="HEX", help=f"Of model.json. {DIGEST_HELP}")
@click.option("--sample", "samples", multiple=True, metavar="ID", help="Only this training sample.")
@click.option("--harmful-of", metavar="JOB", help="Only the most harmful samples of this rank job.")
@click.option("--query", metavar="ID", help="With --harmful-of: of this query; over all by default.")
@click.option("--count", type=POSITIVE, metavar="N", help="With --harmful-of: so many; all by default.")
@choice_option(
    "--space",
    kind=NeighborSpace,
    default=NeighborSpace.PENULTIMATE,
    help="Where neighbours are looked for.",
)
@click.option("--neighbors", type=POSITIVE, metavar="N", help="That vote; the median class size by default.")
@choice_option("--vote", kind=VoteRule, default=VoteRule.SOFT, help="How they vote.")
@job_options
def relabel(
    *,
    train: str,
    model: str | None,
    index: str | None,
    train_sha256: str,
    model_sha256: str,
    samples: tuple[str, ...],
    harmful_of: str | None,
    query: str | None,
    count: int | None,
    space: NeighborSpace,
    neighbors: int | None,
    vote: VoteRule,
) -> Submit:
    """Suggest labels for training samples.

    The nearest training samples of each sample vote for its label; the most doubtful label comes first. Prints the
    name of the job; the job goes on after this command ends.
    """
    if model is None and index is None:
        raise click.UsageError("give --model, or --index for neighbours from the embedding service")
    if harmful_of is None and (query is not None or count is not None):
        raise click.UsageError("--query and --count go with --harmful-of")
    train_artifact = Artifact(uri=to_uri(train), sha256=train_sha256)
    model_artifact = Artifact(uri=to_uri(model), sha256=model_sha256) if model is not None else None
    harmful = HarmfulSamples(job=harmful_of, query_id=query, count=count) if harmful_of is not None else None
    return lambda client, run, options: client.relabel(
        train=train_artifact,
        model=model_artifact,
        sample_ids=samples,
        harmful=harmful,
        space=space,
        knn_index=index,
        num_neighbors=neighbors,
        vote=vote,
        run=run,
        options=options,
    )

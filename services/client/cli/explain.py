"""`eif explain`: why two samples look alike to the model."""

from __future__ import annotations

import click

from services.client.cli.options import examples
from services.client.cli.submission import DIGEST_HELP, Submit, job_options
from services.client.cli.uris import to_uri
from services.client.specs import Artifact


@click.command(
    epilog=examples(
        "eif explain --model my-model --manifest test.parquet --pair img-17 img-40 --wait",
        "eif fetch JOB                      # then: the names of the pictures",
    )
)
@click.option("--model", required=True, metavar="PATH|URI", help="The model bundle: the folder with model.json.")
@click.option("--manifest", required=True, metavar="PATH|URI", help="Manifest that holds both samples of every pair.")
@click.option("--pair", "pairs", nargs=2, multiple=True, required=True, metavar="ID ID", help="May be repeated.")
@click.option("--model-sha256", default="", metavar="HEX", help=f"Of model.json. {DIGEST_HELP}")
@click.option("--manifest-sha256", default="", metavar="HEX", help=DIGEST_HELP)
@job_options
def explain(
    *, model: str, manifest: str, pairs: tuple[tuple[str, str], ...], model_sha256: str, manifest_sha256: str
) -> Submit:
    """Explain why pairs of samples look alike: which parts of one match which parts of the other.

    Writes a picture for each pair and the tables `explanations` and `parts`, whose contributions sum to the similarity.
    """
    model_artifact = Artifact(uri=to_uri(model), sha256=model_sha256)
    manifest_artifact = Artifact(uri=to_uri(manifest), sha256=manifest_sha256)
    return lambda client, run, options: client.explain(
        model=model_artifact, manifest=manifest_artifact, pairs=pairs, run=run, options=options
    )

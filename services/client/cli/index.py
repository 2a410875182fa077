"""`eif index`: named indexes of the embedding service."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from services.client.cli.choices import choice_option
from services.client.cli.following import follow_index, index_step
from services.client.cli.formats import Format, cell, fields_of, format_option, to_json, write_rows
from services.client.cli.options import Where, embedding_client, embedding_options, examples
from services.client.cli.progress import lines
from services.client.cli.text import printable
from services.client.cli.uris import to_uri
from services.client.embeddings import Space

if TYPE_CHECKING:
    from services.client.embeddings import Index

_LISTED = ("index_id", "state", "samples_done", "samples_quarantined", "dim", "space", "model", "manifest_uri")


@click.group()
def index() -> None:
    """Build, list, show, follow and delete indexes of embeddings."""


@index.command(
    epilog=examples(
        "eif index create products --model products --manifest train.parquet --wait",
        "eif index create penultimate --model products --manifest s3://b/train.csv --space penultimate",
    )
)
@click.argument("index_id", metavar="INDEX")
@click.option("--model", required=True, metavar="NAME", help="The loaded model that embeds the samples.")
@click.option("--manifest", required=True, metavar="PATH|URI", help="Manifest of the samples.")
@click.option("--manifest-sha256", default="", metavar="HEX", help="Its sha256; other content is refused.")
@choice_option("--space", kind=Space, default=Space.EMBEDDING, help="Of the vectors.")
@click.option(
    "--max-quarantined",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Fail past this share of unreadable samples; 0.01 by default.",
)
@click.option("--wait", is_flag=True, help="Show progress until it can be searched.")
@click.option(
    "--give-up-after", type=click.FloatRange(min=0), metavar="SECONDS", help="With --wait: the build goes on."
)
@click.option("--json", "as_json", is_flag=True, help="Print the index as JSON.")
@embedding_options
def create(
    where: Where,
    *,
    index_id: str,
    model: str,
    manifest: str,
    manifest_sha256: str,
    space: Space,
    max_quarantined: float | None,
    wait: bool,
    give_up_after: float | None,
    as_json: bool,
) -> None:
    """Build an index of the samples of a manifest."""
    with embedding_client(where) as client:
        made = client.create_index(
            index_id,
            model=model,
            manifest=to_uri(manifest),
            manifest_sha256=manifest_sha256,
            space=space,
            max_quarantined_fraction=max_quarantined,
        )
        if wait:
            made = follow_index(client, made.name, give_up_after=give_up_after)
        click.echo(to_json(fields_of(made), indent=2) if as_json else printable(made.name))
    if wait:
        _finish(made)
    elif sys.stderr.isatty():
        click.echo(f"follow it with: eif index watch {printable(made.index_id)}", err=True)


@index.command("list", epilog=examples("eif index list", "eif index list --format jsonl"))
@format_option()
@embedding_options
def list_(where: Where, *, form: Format) -> None:
    """List the indexes of a project."""
    with embedding_client(where) as client:
        rows = ({"index_id": found.index_id, **fields_of(found)} for found in client.list_indexes())
        write_rows(_LISTED, rows, form, empty="no indexes")


@index.command(epilog=examples("eif index get products", "eif index get products --json"))
@click.argument("name", metavar="INDEX")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@embedding_options
def get(where: Where, *, name: str, as_json: bool) -> None:
    """Show an index: whether it can be searched, and what could not be read."""
    with embedding_client(where) as client:
        found = client.get_index(name)
    if as_json:
        click.echo(to_json(fields_of(found), indent=2))
        return
    for key, value in _details(found).items():
        click.echo(f"{printable(key):<12} {cell(value)}")


@index.command(epilog=examples("eif index watch products"))
@click.argument("name", metavar="INDEX")
@click.option("--give-up-after", type=click.FloatRange(min=0), metavar="SECONDS", help="The build goes on.")
@embedding_options
def watch(where: Where, *, name: str, give_up_after: float | None) -> None:
    """Show the progress of a build until it has ended; the exit code says how."""
    with embedding_client(where) as client:
        _finish(follow_index(client, name, give_up_after=give_up_after))


@index.command(epilog=examples("eif index delete products"))
@click.argument("names", metavar="INDEX...", nargs=-1, required=True)
@embedding_options
def delete(where: Where, *, names: tuple[str, ...]) -> None:
    """Delete indexes and what they stored; a build is stopped first."""
    with embedding_client(where) as client:
        for name in names:
            client.delete_index(name)
            click.echo(printable(f"deleted {name}"))


def _finish(built: Index) -> None:
    from services.client.embedding_converters import raise_unless_ready

    raise_unless_ready(built)
    missing = f", {built.samples_quarantined} could not be read" if built.samples_quarantined else ""
    samples = built.samples_done - built.samples_quarantined
    click.echo(printable(f"{built.index_id} is ready: {samples} samples of size {built.dim}{missing}"), err=True)


def _details(found: Index) -> dict[str, Any]:
    details: dict[str, Any] = {
        "name": found.name,
        "state": found.state,
        "progress": "; ".join(lines([index_step(found)])),
        "model": found.model,
        "manifest": found.manifest_uri,
        "space": found.space,
        "size": found.dim or "",
        "stored": found.stored_uri,
    }
    if found.error is not None:
        details["error"] = f"{found.error.reason}: {found.error.message}"
    details |= {f"  {bad.sample_id}": f"{bad.reason}: {bad.message}" for bad in found.quarantined}
    return {name: value for name, value in details.items() if value != ""}

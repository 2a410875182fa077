"""`eif embed` and `eif search`: vectors of images, and what lies near them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from services.client.cli.choices import choice_option
from services.client.cli.failures import InputError
from services.client.cli.formats import Format, format_option, write_rows
from services.client.cli.options import POSITIVE, Where, embedding_client, embedding_options, examples
from services.client.cli.uris import is_uri
from services.client.embeddings import ByImage, BySample, ByVector, SearchQuery, Space

_BATCH = 32
_SHOWN_VALUES = 4


@click.command(
    epilog=examples(
        "eif embed --model products shoe.jpg s3://b/images/bag.jpg",
        "eif embed --model products images/*.jpg --format jsonl > vectors.jsonl",
    )
)
@click.option("--model", required=True, metavar="NAME", help="The loaded model.")
@choice_option("--space", kind=Space, default=Space.EMBEDDING, help="Of the vectors.")
@click.argument("images", metavar="IMAGE|URI...", nargs=-1, required=True)
@format_option(Format.JSONL)
@embedding_options
def embed(where: Where, *, model: str, space: Space, images: tuple[str, ...], form: Format) -> None:
    """Embed images: files of this machine are sent, URIs are read by the server. Vectors have length 1."""
    with embedding_client(where) as client:

        def rows() -> Iterator[dict[str, Any]]:
            for start in range(0, len(images), _BATCH):
                batch = images[start : start + _BATCH]
                vectors = client.embed(model, map(_image, batch), space=space)
                yield from (_vector_cells(*pair, form) for pair in zip(batch, vectors, strict=True))

        columns = ("image", "dim", "embedding") if form is Format.TABLE else ("image", "embedding")
        write_rows(columns, rows(), form)


@click.command(
    epilog=examples(
        "eif search products --image shoe.jpg",
        "eif search products --id img-17 --neighbors 5 --format jsonl",
        "eif search products --vector 0.1,0.2,0.3",
        "eif embed --model products shoe.jpg | jq .embedding | eif search products --vector -",
    )
)
@click.argument("index", metavar="INDEX")
@click.option("--image", "images", multiple=True, metavar="PATH|URI", help="Near this image.")
@click.option("--id", "samples", multiple=True, metavar="ID", help="Near this entry of the index, without itself.")
@click.option("--vector", "vectors", multiple=True, metavar="NUMBERS", help="Near this vector; - reads it from stdin.")
@click.option("--neighbors", type=POSITIVE, metavar="N", default=10, show_default=True, help="Per query.")
@format_option()
@embedding_options
def search(
    where: Where,
    *,
    index: str,
    images: tuple[str, ...],
    samples: tuple[str, ...],
    vectors: tuple[str, ...],
    neighbors: int,
    form: Format,
) -> None:
    """Find the nearest entries of an index, exactly. Distances are squared Euclidean, in [0, 4]."""
    queries: list[tuple[str, SearchQuery]] = [
        *((given, ByImage(image=_image(given))) for given in images),
        *((given, BySample(sample_id=given)) for given in samples),
        *((f"vector {number}", ByVector(values=_vector(given))) for number, given in enumerate(vectors, 1)),
    ]
    if not queries:
        raise click.UsageError("say what to look for: --image, --id or --vector")
    with embedding_client(where) as client:
        answers = client.search(index, [query for _, query in queries], num_neighbors=neighbors)
    rows = (
        {"query": title, "rank": rank, "sample_id": near.sample_id, "label": near.label, "distance": near.distance}
        for (title, _), answer in zip(queries, answers, strict=True)
        for rank, near in enumerate(answer, 1)
    )
    write_rows(("query", "rank", "sample_id", "label", "distance"), rows, form, empty="the index is empty")


def _image(given: str) -> bytes | str:
    if is_uri(given):
        return given
    try:
        return Path(given).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"{given}: {error.strerror}; give an image file, s3://bucket/key or file:///path") from error


def _vector(given: str) -> tuple[float, ...]:
    text = (sys.stdin.read() if given == "-" else given).strip()
    try:
        return tuple(map(float, json.loads(text) if text.startswith("[") else text.split(",")))
    except (TypeError, ValueError):
        raise InputError("--vector: give numbers with commas between them, or a JSON array") from None


def _vector_cells(image: str, vector: list[float], form: Format) -> dict[str, Any]:
    if form is not Format.TABLE:
        return {"image": image, "embedding": vector}
    values = ", ".join(f"{value:.4f}" for value in vector[:_SHOWN_VALUES])
    return {
        "image": image,
        "dim": len(vector),
        "embedding": f"{values}, ..." if len(vector) > _SHOWN_VALUES else values,
    }

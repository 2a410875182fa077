"""`eif model`: check and export a model bundle on this machine, load it into the embedding service."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import click

from services.client.cli.failures import InputError
from services.client.cli.formats import Format, fields_of, format_option, to_json, write_rows
from services.client.cli.options import Where, embedding_client, embedding_options, examples
from services.client.cli.text import printable
from services.client.cli.uris import to_uri

_LISTED = ("model_id", "embedding_dim", "feature_dim", "execution_provider", "uri", "create_time")
_LOAD_SECONDS = 300.0
_PASSED_ON = {"ignore_unknown_options": True}
"""Options are the engine's own; it checks them."""


def passed_on(*lines: str) -> str:
    """What click cannot know: options that another program parses."""
    return "\b\nOptions of the engine, which checks them:\n" + "\n".join(f"  {line}" for line in lines) + "\n\n"


@click.group()
def model() -> None:
    """Check a model, export it to ONNX, load it into the embedding service."""


@model.command(
    context_settings=_PASSED_ON,
    epilog=passed_on("--json  Print findings as JSON.")
    + examples("eif model check my-model", "eif model check my-model --json"),
)
@click.argument("arguments", metavar="FOLDER", nargs=-1, type=click.UNPROCESSED)
def check(*, arguments: tuple[str, ...]) -> int:
    """Say what is wrong with a model bundle, before anything runs.

    FOLDER holds model.json. Exit code 0: it can be used (there may be warnings); 1: it cannot.
    """
    return _run_engine("check", arguments, extra="engine", needs=("torch", "safetensors"))


@model.command(
    "export-onnx",
    context_settings=_PASSED_ON,
    epilog=passed_on(
        "--out DIR           Where to write. Required.",
        "--images PATH...    Image files, or folders of them, to verify on. Required.",
        "--opset N           Of ONNX.",
        "--max-difference X  Largest accepted difference of normalised embeddings.",
    )
    + examples(
        "eif model export-onnx my-model --out my-model-onnx --images images/",
        "eif model load products --onnx my-model-onnx     # then: serve it",
    ),
)
@click.argument("arguments", metavar="FOLDER --out DIR --images PATH...", nargs=-1, type=click.UNPROCESSED)
def export_onnx(*, arguments: tuple[str, ...]) -> int:
    """Write a model bundle as ONNX, verified against PyTorch on real images.

    FOLDER holds model.json. Exit code 0: written; 1: not written, and the message says why.
    """
    return _run_engine("export-onnx", arguments, extra="export", needs=("torch", "onnx", "onnxruntime"))


@model.command(
    epilog=examples(
        "eif model load products --onnx my-model-onnx", "eif model load products --onnx s3://b/onnx --sha256 HEX"
    )
)
@click.argument("model_id", metavar="NAME")
@click.option("--onnx", required=True, metavar="PATH|URI", help="The ONNX bundle: the folder with onnx.json.")
@click.option("--sha256", default="", metavar="HEX", help="Of onnx.json; other content is refused.")
@click.option("--json", "as_json", is_flag=True, help="Print the model as JSON.")
@embedding_options
def load(where: Where, *, model_id: str, onnx: str, sha256: str, as_json: bool) -> None:
    """Load an ONNX model into the embedding service under a name."""
    with embedding_client(where) as client:
        loaded = client.load_model(model_id, uri=to_uri(onnx), sha256=sha256, timeout=max(where.timeout, _LOAD_SECONDS))
    text = to_json(fields_of(loaded), indent=2) if as_json else printable(loaded.name)
    click.echo(text)


@model.command("list", epilog=examples("eif model list", "eif model list --format jsonl"))
@format_option()
@embedding_options
def list_(where: Where, *, form: Format) -> None:
    """List the models that the embedding service has loaded."""
    with embedding_client(where) as client:
        rows = ({"model_id": found.model_id, **fields_of(found)} for found in client.list_models())
        write_rows(_LISTED, rows, form, empty="no models")


@model.command(epilog=examples("eif model delete products"))
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@embedding_options
def delete(where: Where, *, names: tuple[str, ...]) -> None:
    """Unload models. What lies in the object store stays."""
    with embedding_client(where) as client:
        for name in names:
            client.delete_model(name)
            click.echo(printable(f"deleted {name}"))


def _run_engine(command: str, arguments: tuple[str, ...], *, extra: str, needs: tuple[str, ...]) -> int:
    missing = [package for package in needs if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(f"this command needs {', '.join(missing)} on this machine: pip install 'eif-service[{extra}]'")
    engine = [sys.executable, "-m", "eif_engine", command, *arguments]
    ended = subprocess.run(engine, check=False)  # noqa: S603 - our own module, with the user's own arguments
    return ended.returncode if ended.returncode >= 0 else 128 - ended.returncode

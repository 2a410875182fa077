"""`eif apply`: decisions into a corrected manifest."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from services.client.cli.failures import InputError
from services.client.cli.formats import to_json
from services.client.cli.options import examples
from services.client.cli.text import printable
from services.client.cli.uris import is_uri

if TYPE_CHECKING:
    from services.client.roundtrip.applying import Provenance
    from services.common.decisions import Decision

_REVIEWED = "reviewed.csv"


@click.command(
    epilog=examples(
        "eif apply train.csv --decisions review.csv -o train-2.csv",
        "eif apply train.csv --decisions label-studio-export.json -o train-2.csv --reviewed reviewed.csv",
        "eif apply train.csv --decisions exported-by-fiftyone/ -o train-2.csv",
        "eif audit --model my-model --train train-2.csv --test test.csv --decisions reviewed.csv",
    )
)
@click.argument("manifest")
@click.option(
    "--decisions",
    "sources",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="CSV or JSON Lines, Label Studio's JSON export, or FiftyOne's folder; of several the later ones count.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The new manifest.")
@click.option(
    "--reviewed",
    type=click.Path(path_type=Path),
    help="Remember here what was reviewed, for the next audit; reviewed.csv beside the new manifest by default.",
)
@click.option("--force", is_flag=True, help="Apply decisions about a label that the manifest does not have any more.")
@click.option("--json", "as_json", is_flag=True, help="Print the provenance as JSON.")
def apply(
    *, manifest: str, sources: tuple[Path, ...], output: Path, reviewed: Path | None, force: bool, as_json: bool
) -> None:
    """Write a corrected manifest: only what was decided changes. Prints its sha256.

    What it was made of is written beside it, as NEW.provenance.json. Labels that were kept or given are remembered in
    a file that the next `eif audit` takes as --decisions, and does not ask about again. Nothing leaves this machine.
    """
    from services.client.roundtrip.applying import apply_decisions, recall, remember
    from services.client.roundtrip.errors import RoundTripError
    from services.client.roundtrip.fiftyone import SAMPLES
    from services.common.decisions import DecisionsInvalid

    if is_uri(manifest):
        raise InputError(f"{manifest}: the manifest is a file of this machine; copy it here first")
    memory = reviewed or output.with_name(_REVIEWED)
    sources = tuple(path / SAMPLES if path.is_dir() else path for path in sources)
    try:
        decisions = [decision for path in sources for decision in _read(path)]
        known = recall(memory)  # before anything is written: it may be no such file
        provenance = apply_decisions(Path(manifest), decisions, output, sources=sources, force=force)
        remembered = remember(memory, known, decisions)
    except (RoundTripError, DecisionsInvalid) as error:
        raise InputError(str(error)) from error
    _report(provenance, output, memory, remembered)
    click.echo(to_json(asdict(provenance), indent=2) if as_json else printable(f"{provenance.result.sha256}  {output}"))


def _read(path: Path) -> list[Decision]:
    from services.client.roundtrip.fiftyone import SAMPLES, read_tags
    from services.client.roundtrip.label_studio import read_annotations
    from services.common.decisions import read_decisions

    if path.name == SAMPLES:
        return read_tags(path)
    return read_annotations(path) if path.name.lower().endswith(".json") else read_decisions(path)


def _report(provenance: Provenance, output: Path, memory: Path, remembered: int) -> None:
    from services.client.roundtrip.applying import provenance_path

    done = f"{provenance.relabelled} relabelled, {provenance.removed} removed, {provenance.kept} kept"
    forced = f", {provenance.stale} of them about another label than the manifest had" if provenance.stale else ""
    click.echo(f"{provenance.rows} samples: {done}{forced}", err=True)
    click.echo(printable(f"made of what: {provenance_path(output)}"), err=True)
    click.echo(printable(f"{remembered} reviewed labels for --decisions of the next audit: {memory}"), err=True)

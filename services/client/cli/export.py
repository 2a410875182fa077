"""`eif export`: what an audit found, in the form of the programs in which people look at it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from services.client.cli.choices import choice_option
from services.client.cli.failures import InputError
from services.client.cli.options import COUNT, Where, examples, influence_client, influence_options
from services.client.cli.text import printable
from services.client.cli.uris import is_uri
from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.images import Rewrite
from services.client.roundtrip.review import Review, ReviewItem, Split, review

if TYPE_CHECKING:
    import pyarrow as pa

    from services.client.influence import InfluenceClient
    from services.client.roundtrip.records import Record


class ExportFormat(StrEnum):
    """Forms of a review."""

    LABEL_STUDIO = "label-studio"
    FIFTYONE = "fiftyone"
    CSV = "csv"
    PARQUET = "parquet"


@click.command(
    epilog=examples(
        "eif export JOB --format csv --manifest train.csv -o review.csv          # fill in its column `decision`",
        "eif export JOB --format label-studio --manifest train.csv -o tasks.json --label-config labels.xml",
        "eif export JOB --format fiftyone --manifest train.csv -o review/ --image s3://bucket/=/mnt/bucket/",
        "eif export JOB --format csv --manifest test.csv --split test --kind test_label_issue -o test-labels.csv",
    )
)
@click.argument("job")
@choice_option("--format", "form", kind=ExportFormat, help="For which program.")
@click.option("--manifest", required=True, metavar="FILE", help="The manifest that was audited, on this machine.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File; folder for fiftyone.")
@choice_option("--split", kind=Split, default=Split.TRAIN, help="Which manifest of the audit it is.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="Only samples with these findings; all by default."
)
@click.option("--everything", is_flag=True, help="Also samples without findings.")
@click.option("--limit", type=COUNT, metavar="N", default=0, show_default=True, help="The N gravest; 0 is all.")
@click.option("--image", "images", multiple=True, metavar="START=BY", help="Replace the start of image URIs.")
@click.option("--label-config", type=click.Path(path_type=Path), help="Write Label Studio's configuration here.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@influence_options
def export(
    where: Where,
    *,
    job: str,
    form: ExportFormat,
    manifest: str,
    output: Path,
    split: Split,
    kinds: tuple[str, ...],
    everything: bool,
    limit: int,
    images: tuple[str, ...],
    label_config: Path | None,
    force: bool,
) -> None:
    """Write the samples that an audit found something about, to be looked at. `eif apply` takes the decisions back.

    Needs eif-service[tables].
    """
    from services.client.roundtrip.manifest import samples

    for path in filter(None, (output, label_config)):
        if path.exists() and not force:
            raise InputError(f"{path} is there already: name another, or give --force")
    with influence_client(where) as client:
        tables = _tables(client, job, split)
        name = client.get_job(job).name
    try:
        rewrites = tuple(map(Rewrite.parse, images))
        labels = _Labels(samples(_local(manifest)))
        found = review(labels, tables, split=split, kinds=kinds, everything=everything)
        items = found.items[: limit or None]
        _write(form, items, output, job=name, rewrites=rewrites)
    except RoundTripError as error:
        raise InputError(str(error)) from error
    if label_config is not None:
        from services.client.roundtrip.label_studio import labelling_configuration

        label_config.write_text(labelling_configuration(labels.seen), encoding="utf-8")
    _report(found, shown=len(items), output=output)


@dataclass
class _Labels:
    """Samples as they pass, and the labels that they have."""

    records: Iterator[Record]
    seen: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[Record]:
        for record in self.records:
            self.seen.add(record.label)
            yield record


def _local(manifest: str) -> Path:
    if is_uri(manifest):
        raise InputError(f"{manifest}: --manifest is a file of this machine; copy it here first")
    return Path(manifest).expanduser()


def _tables(client: InfluenceClient, job: str, split: Split) -> dict[str, pa.Table]:
    names = ("findings", "issues" if split is Split.TRAIN else "test_issues")
    try:
        return {name: client.read_table(job, name) for name in names}
    except ImportError as error:
        raise InputError(str(error)) from error


def _write(
    form: ExportFormat, items: list[ReviewItem], output: Path, *, job: str, rewrites: tuple[Rewrite, ...]
) -> None:
    from services.client.roundtrip import fiftyone, flat, label_studio

    match form:
        case ExportFormat.LABEL_STUDIO:
            _complete(output, lambda file: label_studio.write_tasks(items, file, job=job, rewrites=rewrites))
        case ExportFormat.CSV:
            _complete(output, lambda file: flat.write_csv(items, file, rewrites=rewrites))
        case ExportFormat.PARQUET:
            flat.write_parquet(items, output, rewrites=rewrites)
        case ExportFormat.FIFTYONE:
            fiftyone.write_dataset(items, output, job=job, rewrites=rewrites)


def _complete(path: Path, write: Callable[[TextIO], None]) -> None:
    """Write a file that is complete or as it was."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _report(found: Review, *, shown: int, output: Path) -> None:
    said = [f"{shown} samples"]
    if found.missing:
        said.append(f"{found.missing} with findings are not in the manifest")
    if found.stale:
        said.append(f"{found.stale} have another label there than the audit saw, and are left out")
    click.echo("; ".join(said), err=True)
    if any(item.member for item in itertools.islice(found.items, shown)):
        click.echo("some images lie in tars, as uri#member: other programs need them unpacked, see --image", err=True)
    click.echo(printable(str(output)))

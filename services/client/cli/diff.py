"""`eif diff`: what is new, fixed and persisting between two audits."""

from __future__ import annotations

import itertools

import click

from services.client.cli.formats import Format, fields_of, format_option, write_rows
from services.client.cli.options import COUNT, Where, examples, influence_client, influence_options
from services.client.cli.text import printable
from services.client.gate import Change, ChangeCount

_CHANGES = [change.value for change in Change if change is not Change.UNKNOWN]
_TABLE = ("change", "kind", "severity", "sample_id", "other_id", "label", "other_label", "summary")
_COLUMNS = ("change", "finding_id", *_TABLE[1:])


@click.command(
    epilog=examples(
        "eif diff JOB LAST_JOB                            # what is new and what is fixed",
        "eif diff JOB LAST_JOB --change new --kind label_issue --limit 0 --format csv > to-review.csv",
        "eif diff JOB LAST_JOB --change persisting --format jsonl",
    )
)
@click.argument("job")
@click.argument("baseline")
@click.option(
    "--change",
    "changes",
    type=click.Choice(_CHANGES, case_sensitive=False),
    multiple=True,
    help="Only these; new and fixed by default.",
)
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only findings of this kind, such as label_issue.")
@click.option("--limit", type=COUNT, metavar="N", default=50, show_default=True, help="At most so many; 0 is all.")
@format_option()
@influence_options
def diff(
    where: Where,
    *,
    job: str,
    baseline: str,
    changes: tuple[str, ...],
    kinds: tuple[str, ...],
    limit: int,
    form: Format,
) -> None:
    """List the findings of an audit that a baseline does not have (new), and those that only it has (fixed).

    How many there are of each kind goes to standard error. That there are differences is no failure: see eif gate.
    """
    wanted = [Change(change) for change in changes or ("new", "fixed")]
    with influence_client(where) as client:
        found = client.compare_audits(job, baseline, changes=wanted, kinds=kinds, page_size=min(limit, 1000))
        for count in found.counts:
            if not kinds or count.kind in kinds:
                click.echo(_counted(count), err=True)
        columns = _TABLE if form is Format.TABLE else _COLUMNS
        rows = map(fields_of, itertools.islice(found.changes, limit or None))
        write_rows(columns, rows, form, empty="no such findings")


def _counted(count: ChangeCount) -> str:
    return printable(f"{count.kind}: {count.new} new, {count.fixed} fixed, {count.persisting} persisting")

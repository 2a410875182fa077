"""`eif results` and `eif stream`: the tables of a job, and its ranking."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import click

from services.client.cli.choices import choice_option
from services.client.cli.failures import InputError
from services.client.cli.formats import Format, format_option, write_rows
from services.client.cli.options import COUNT, Where, examples, influence_client, influence_options
from services.client.cli.rows import COLUMNS, RELABEL_STREAM_COLUMNS, TABLE_COLUMNS, cells_of
from services.client.specs import RankOrder, Table

if TYPE_CHECKING:
    from services.client.jobs import Job


@click.command(
    epilog=examples(
        "eif results JOB --table pairs                     # the confusions and their query ids",
        "eif results JOB --table ranking --query pair:a:b  # what is behind one of them",
        "eif results JOB --table relabel --limit 0 --format csv > suggestions.csv",
    )
)
@click.argument("job")
@choice_option("--table", kind=Table, help="Which table.")
@click.option("--query", default="", metavar="ID", help="Only rows of this query (ranking and pairs).")
@click.option("--limit", type=COUNT, metavar="N", default=50, show_default=True, help="At most so many; 0 is all.")
@format_option()
@influence_options
def results(where: Where, *, job: str, table: Table, query: str, limit: int, form: Format) -> None:
    """Print a table of a job that succeeded, page by page."""
    if query and table not in {Table.RANKING, Table.PAIRS}:
        raise click.UsageError("--query goes with --table ranking or pairs")
    with influence_client(where) as client:
        rows = client.results(job, table, query_id=query, page_size=min(limit, 1000))
        columns = TABLE_COLUMNS[table] if form is Format.TABLE else COLUMNS[table]
        write_rows(columns, map(cells_of, itertools.islice(rows, limit or None)), form, empty=f"{table} has no rows")


@click.command(
    epilog=examples(
        "eif stream JOB --max-rows 100 --format jsonl",
        "eif stream JOB --order helpful --query pair:a:b",
        "eif stream JOB --format csv | head -1000 > harmful.csv",
    )
)
@click.argument("job")
@click.option("--query", default="", metavar="ID", help="Of this query; over all queries by default.")
@choice_option("--order", kind=RankOrder, default=RankOrder.HARMFUL, help="Which end comes first.")
@click.option("--max-rows", type=COUNT, metavar="N", default=0, show_default=True, help="Stop there; 0 is all.")
@format_option()
@influence_options
def stream(where: Where, *, job: str, query: str, order: RankOrder, max_rows: int, form: Format) -> None:
    """Stream the ranking of a job: training samples, the most harmful first.

    The ranking of a relabel job is by doubt in the label. A lost connection is taken up again where it broke.
    """
    with influence_client(where) as client:
        found = client.get_job(job)  # says at once that there is no such job, or no server
        if query and found.kind == "relabel":
            raise InputError("--query: the ranking of a relabel job has no queries; leave it out")
        with client.stream_ranked_samples(found, query_id=query, order=order, max_rows=max_rows) as ranking:
            write_rows(_stream_columns(found), map(cells_of, ranking), form, empty="the ranking is empty")


def _stream_columns(job: Job) -> tuple[str, ...]:
    return RELABEL_STREAM_COLUMNS if job.kind == "relabel" else COLUMNS[Table.RANKING]

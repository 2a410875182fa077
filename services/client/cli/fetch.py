"""`eif fetch` and `eif table`: files of a result, and tables of every kind of job."""

from __future__ import annotations

from pathlib import Path

import click

from services.client.cli.failures import InputError
from services.client.cli.formats import Format, format_option, write_rows
from services.client.cli.options import COUNT, Where, examples, influence_client, influence_options
from services.client.cli.text import printable
from services.client.jobs import Job


@click.command(
    epilog=examples(
        "eif fetch JOB                        # which files there are",
        "eif fetch JOB report.html            # into this folder",
        "eif fetch JOB issues.parquet -o /data/issues.parquet",
    )
)
@click.argument("job")
@click.argument("file", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to; the file's own name by default.")
@click.option("--force", is_flag=True, help="Replace what is there.")
@influence_options
def fetch(where: Where, *, job: str, file: str | None, output: Path | None, force: bool) -> None:
    """Save a file of a job that succeeded, checked against its sha256; without FILE, list them."""
    with influence_client(where) as client:
        if file is None:
            for name, size in _files(client.get_job(job)):
                click.echo(f"{printable(name)}\t{size}")
            return
        path = output or Path(Path(file).name)
        path = path / Path(file).name if path.is_dir() else path
        if path.exists() and not force:
            raise InputError(f"{path} is there already: name another with -o, or give --force")
        client.save_file(job, file, path)
    click.echo(printable(str(path)))


@click.command(
    epilog=examples(
        "eif table JOB issues --limit 20",
        "eif table JOB class_pairs --format csv --limit 0 > class-pairs.csv",
    )
)
@click.argument("job")
@click.argument("table")
@click.option("--limit", type=COUNT, metavar="N", default=50, show_default=True, help="At most so many; 0 is all.")
@click.option("--columns", metavar="A,B", help="Only these; all by default.")
@format_option()
@influence_options
def table(where: Where, *, job: str, table: str, limit: int, columns: str | None, form: Format) -> None:
    """Print any table of a job that succeeded, such as those of an audit. Needs eif-service[tables]."""
    with influence_client(where) as client:
        try:
            rows = client.read_table(job, table)
        except ImportError as error:
            raise InputError(str(error)) from error
    wanted = columns.split(",") if columns else rows.column_names
    if unknown := sorted(set(wanted) - set(rows.column_names)):
        raise InputError(f"{table} has no column {', '.join(unknown)}; it has {', '.join(rows.column_names)}")
    shown = rows.select(wanted).slice(0, limit or None).to_pylist()
    write_rows(tuple(wanted), shown, form, empty=f"{table} has no rows")


def _files(job: Job) -> list[tuple[str, str]]:
    if job.output is None:
        raise InputError(f"{job.job_id} is {job.state}: only a job that succeeded has files")
    tables = [(f"{table.name}.parquet", f"{table.rows} rows") for table in job.output.tables]
    return tables + [(file.name, f"{file.size_bytes} bytes") for file in job.output.files]

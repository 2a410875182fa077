"""`eif jobs` and `eif watch`: see what runs, follow it, stop it, remove it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import click

from services.client.cli.following import follow_job, job_step
from services.client.cli.formats import Format, cell, fields_of, format_option, to_json, write_rows
from services.client.cli.options import COUNT, Where, examples, influence_client, influence_options
from services.client.cli.progress import lines
from services.client.cli.submission import finish
from services.client.cli.text import printable
from services.client.jobs import JobState

if TYPE_CHECKING:
    from services.client.jobs import Job

_LISTED = ("name", "kind", "state", "stage", "created", "ended", "title")
_STATES = [state.value for state in JobState if state is not JobState.UNKNOWN]


@click.group()
def jobs() -> None:
    """List, show, cancel and delete jobs."""


@jobs.command("list", epilog=examples("eif jobs list --state RUNNING", "eif jobs list --limit 0 --format jsonl"))
@click.option("--state", "states", type=click.Choice(_STATES, case_sensitive=False), multiple=True, help="Only these.")
@click.option("--limit", type=COUNT, metavar="N", default=50, show_default=True, help="At most so many; 0 is all.")
@format_option()
@influence_options
def list_(where: Where, *, states: tuple[str, ...], limit: int, form: Format) -> None:
    """List the jobs of a project, newest first."""
    with influence_client(where) as client:
        found = itertools.islice(client.list_jobs(states=list(map(JobState, states))), limit or None)
        write_rows(_LISTED, map(_summary, found), form, empty="no jobs")


@jobs.command(epilog=examples("eif jobs get JOB", "eif jobs get JOB --json"))
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="Print all of it as JSON.")
@influence_options
def get(where: Where, *, job: str, as_json: bool) -> None:
    """Show a job: where it stands, or where its results are."""
    with influence_client(where) as client:
        found = client.get_job(job)
    if as_json:
        click.echo(to_json(fields_of(found), indent=2))
        return
    for name, value in _details(found).items():
        click.echo(f"{printable(name):<12} {cell(value)}")


@jobs.command(epilog=examples("eif jobs cancel JOB", "eif jobs cancel JOB --wait"))
@click.argument("job")
@click.option("--wait", is_flag=True, help="Until it has stopped.")
@influence_options
def cancel(where: Where, *, job: str, wait: bool) -> None:
    """Ask a job to stop. One that has ended stays as it is."""
    with influence_client(where) as client:
        found = client.cancel_job(job)
        if wait:
            found = follow_job(client, found.name, give_up_after=None)
    click.echo(printable(f"{found.name} {found.state}"))


@jobs.command(epilog=examples("eif jobs delete JOB", "eif jobs delete --allow-missing JOB1 JOB2"))
@click.argument("names", metavar="JOB...", nargs=-1, required=True)
@click.option("--allow-missing", is_flag=True, help="One that is not there is no error.")
@influence_options
def delete(where: Where, *, names: tuple[str, ...], allow_missing: bool) -> None:
    """Delete ended jobs and their results."""
    with influence_client(where) as client:
        for name in names:
            client.delete_job(name, allow_missing=allow_missing)
            click.echo(printable(f"deleted {name}"))


@click.command(epilog=examples("eif watch JOB", "eif watch JOB --json | jq .progress"))
@click.argument("job")
@click.option("--json", "as_json", is_flag=True, help="Print the job as one line of JSON at every change.")
@click.option("--give-up-after", type=click.FloatRange(min=0), metavar="SECONDS", help="The job goes on.")
@influence_options
def watch(where: Where, *, job: str, as_json: bool, give_up_after: float | None) -> None:
    """Show the progress of a job until it has ended; the exit code says how."""
    with influence_client(where) as client:
        on_change = _print_json if as_json else None
        finish(follow_job(client, job, give_up_after=give_up_after, on_change=on_change))


def _print_json(job: Job) -> None:
    # A reader of the pipe wants each change when it happens, not when a buffer is full.
    click.echo(to_json(fields_of(job)))


def _summary(job: Job) -> dict[str, Any]:
    return {
        "name": job.job_id,
        "kind": job.kind,
        "state": job.state,
        "stage": job.progress.stage if job.progress and job.state is JobState.RUNNING else "",
        "created": job.create_time,
        "ended": job.end_time,
        "title": job.display_name,
    }


def _details(job: Job) -> dict[str, Any]:
    details: dict[str, Any] = {"name": job.name, "kind": job.kind, "state": job.state, "title": job.display_name}
    if not job.state.is_terminal:
        details["progress"] = "; ".join(lines([job_step(job)]))
    if job.error is not None:
        details["error"] = f"{job.error.reason}: {job.error.message}"
    details |= {"created": job.create_time, "started": job.start_time, "ended": job.end_time, "attempt": job.attempt}
    if job.output is not None:
        details["results"] = job.output.manifest_uri
        details |= {f"  {table.name}": f"{table.rows} rows" for table in job.output.tables}
        details |= {f"  {name}": f"{value:g}" for name, value in sorted(job.output.figures.items())}
    return {name: value for name, value in details.items() if value not in {None, ""}}

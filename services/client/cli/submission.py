"""What `eif rank` and `eif relabel` share: options of every job, submitting it, waiting for it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from services.client.cli.choices import choice_option
from services.client.cli.following import follow_job
from services.client.cli.formats import fields_of, to_json
from services.client.cli.options import COUNT, Where, influence_client, influence_options
from services.client.cli.text import printable
from services.client.specs import Device, JobOptions, RunOptions

if TYPE_CHECKING:
    from services.client.influence import InfluenceClient
    from services.client.jobs import Job

Command = TypeVar("Command", bound=Callable[..., Any])
Submit = Callable[["InfluenceClient", RunOptions, JobOptions], "Job"]
"""Sends the one request."""
DIGEST_HELP = "Its sha256 (hex); other content is refused."


def job_options(command: Command) -> Command:
    """Options of every job; the command returns how to submit it, and this does the rest."""

    @functools.wraps(command)
    def submitted(
        where: Where,
        *,
        device: Device,
        seed: int,
        max_quarantined: float | None,
        job_id: str | None,
        title: str,
        output: str | None,
        job_labels: tuple[str, ...],
        request_id: str | None,
        check_only: bool,
        wait: bool,
        give_up_after: float | None,
        as_json: bool,
        **others: Any,  # noqa: ANN401 - the options of the command
    ) -> None:
        submit: Submit = command(**others)
        run = RunOptions(device=device, seed=seed, max_quarantined_fraction=max_quarantined)
        options = JobOptions(
            job_id=job_id,
            display_name=title,
            output_uri_prefix=output,
            labels=_labels(job_labels),
            request_id=request_id,
            validate_only=check_only,
        )
        with influence_client(where) as client:
            job = submit(client, run, options)
            if check_only:
                click.echo("this job would be accepted", err=True)
            else:
                job = _accepted(client, job, wait=wait, give_up_after=give_up_after)
        _print(job, as_json=as_json, check_only=check_only)
        if wait and not check_only:
            finish(job)

    return _with_job_options(influence_options(submitted))  # type: ignore[return-value]  # click keeps the function


def _with_job_options(command: Callable[..., None]) -> Callable[..., None]:
    decorators = [
        choice_option("--device", kind=Device, default=Device.AUTO, help="Where it computes."),
        click.option("--seed", type=COUNT, metavar="N", default=0, show_default=True, help="Of what is random."),
        click.option(
            "--max-quarantined",
            type=click.FloatRange(0, 1),
            metavar="SHARE",
            help="Fail past this share of unreadable samples; 0.01 by default.",
        ),
        click.option("--id", "job_id", metavar="ID", help="Last part of the job's name; made up by default."),
        click.option("--title", default="", help="A title for people."),
        click.option("--output", metavar="URI", help="Where the results go; the server's choice by default."),
        click.option("--label", "job_labels", multiple=True, metavar="KEY=VALUE", help="Kept with the job."),
        click.option("--request-id", metavar="UUID", help="The same id gives the same job, not a second one."),
        click.option("--check-only", is_flag=True, help="Only check what can be checked without running."),
        click.option("--wait", is_flag=True, help="Show progress until the job has ended."),
        click.option(
            "--give-up-after", type=click.FloatRange(min=0), metavar="SECONDS", help="With --wait: the job goes on."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the job as JSON."),
    ]
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def _accepted(client: InfluenceClient, job: Job, *, wait: bool, give_up_after: float | None) -> Job:
    if wait:
        click.echo(printable(f"submitted {job.name}"), err=True)
        return follow_job(client, job.name, give_up_after=give_up_after)
    if sys.stderr.isatty():
        click.echo(printable(f"follow it with: eif watch {job.job_id}"), err=True)
    return job


def _print(job: Job, *, as_json: bool, check_only: bool) -> None:
    if as_json:
        click.echo(to_json(fields_of(job), indent=2))
    elif not check_only:
        click.echo(printable(job.name))


def finish(job: Job) -> None:
    """Say where the results of a job are. Raises JobFailed or JobCancelled when there are none."""
    from services.client.job_converters import raise_unless_succeeded

    output = raise_unless_succeeded(job).output
    if output is not None:
        tables = ", ".join(f"{table.name} ({table.rows} rows)" for table in output.tables)
        click.echo(printable(f"results: {tables}; `eif results {job.job_id} --table NAME`"), err=True)


def _labels(given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for key, separator, _ in pairs:
        if not key or not separator:
            raise click.UsageError(f"--label {key}: give KEY=VALUE")
    return {key: value for key, _, value in pairs}

"""The `eif` command: its groups and what `eif --help` says."""

from __future__ import annotations

import click

from services.client.cli.apply import apply
from services.client.cli.audit import audit
from services.client.cli.diff import diff
from services.client.cli.exit_codes import TEXT
from services.client.cli.explain import explain
from services.client.cli.export import export
from services.client.cli.failures import Interrupted, PipeClosed
from services.client.cli.fetch import fetch, table
from services.client.cli.gate import gate
from services.client.cli.images import embed, search
from services.client.cli.index import index
from services.client.cli.info import info
from services.client.cli.jobs import jobs, watch
from services.client.cli.model import model
from services.client.cli.rank import rank
from services.client.cli.relabel import relabel
from services.client.cli.results import results, stream
from services.client.cli.serve import serve

_EPILOG = f"""\b
From nothing to ranked samples:
  eif serve all                                  # in another terminal
  eif model check my-model                       # what is wrong with a model, before anything runs
  eif rank --model my-model --train train.csv --test test.csv --wait
  eif stream JOB --max-rows 20                   # the most harmful training samples
  eif relabel --model my-model --train train.csv --harmful-of JOB --wait

\b
{TEXT}"""


class Root(click.Group):
    """Lists its commands in the order in which one meets them."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; click has ways of its own to end when a pipe is closed and at Ctrl-C."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise PipeClosed from None
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)


def _print_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click's signature
    if wanted:
        from importlib.metadata import version

        click.echo(f"eif {version('eif-service')}")
        context.exit()


@click.group(cls=Root, epilog=_EPILOG, context_settings={"max_content_width": 120})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show it.")
def eif() -> None:
    """Which training samples taught an embedding model its confusions, and which labels are wrong.

    Talks to the influence and the embedding service; `COMMAND --help` has an example of each command.
    """


for _command in (
    serve,
    info,
    model,
    rank,
    relabel,
    audit,
    explain,
    jobs,
    watch,
    results,
    stream,
    table,
    fetch,
    gate,
    diff,
    export,
    apply,
    index,
    embed,
    search,
):
    eif.add_command(_command)

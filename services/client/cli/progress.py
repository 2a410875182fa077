"""How far a job is, on standard error: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from services.client.cli.text import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


@dataclass(frozen=True, kw_only=True)
class Step:
    """One report: what runs, how far it is, and the expected seconds to its end."""

    title: str
    done: int = 0
    total: int = 0
    unit: str = ""
    eta_seconds: float | None = None

    @property
    def tenths(self) -> int:
        """How much is done, in tenths, rounded down; 0 while that is not known."""
        return min(self.done * 10 // self.total, 10) if self.total else 0


def show(steps: Iterable[Step]) -> None:
    """Show steps until there are no more."""
    if sys.stderr.isatty():
        _show_bar(steps)
    else:
        for line in lines(steps):
            click.echo(line, err=True)


def lines(steps: Iterable[Step]) -> Iterator[str]:
    """A line whenever the title changes, and each time a further tenth is done."""
    shown: tuple[str, int] | None = None
    for step in steps:
        if shown is None or step.title != shown[0] or step.tenths > shown[1]:
            shown = (step.title, step.tenths)
            yield printable(f"{step.title}{_amount(step)}{_eta(step)}")


def _amount(step: Step) -> str:
    if not step.total:
        return f": {step.done} {step.unit}".rstrip() if step.done else ""
    return f": {step.done}/{step.total} {step.unit}".rstrip()


def _eta(step: Step) -> str:
    return f", about {_duration(step.eta_seconds)} left" if step.eta_seconds else ""


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _show_bar(steps: Iterable[Step]) -> None:
    with _bars() as bars:
        task = bars.add_task("", total=None, amount="", left="")
        title = ""
        for step in steps:
            bars.update(
                task,
                refresh=step.title != title,
                description=printable(step.title),
                completed=step.done,
                total=step.total or None,
                amount=printable(_amount(step).removeprefix(": ")),
                left=_eta(step).removeprefix(", "),
            )
            title = step.title


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )

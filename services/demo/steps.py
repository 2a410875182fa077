"""Tells a person what is being done: a bar for the running step on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

PLAIN_WIDTH = 140
"""Of tables and lines when nobody says how wide the output is."""
SPOKEN_SHARE = 0.25
"""Elsewhere than on a terminal, a line for each further quarter."""


def demo_console() -> Console:
    """Standard output, wide enough for tables when it is a file or a pipe."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


class Step:
    """A running step.

    Attributes:
        note: Shown with the step when it is done.
        seconds: What it took; set when it is done.
    """

    def __init__(self, steps: Steps, title: str) -> None:
        self._steps, self._title = steps, title
        self._task = steps.bars.add_task(escape(title), total=None, amount="", left="")
        self._spoken: tuple[str, float] = (title, 0.0)
        self.note = ""
        self.seconds = 0.0

    def report(
        self, done: int, total: int, *, part: str = "", unit: str = "", eta_seconds: float | None = None
    ) -> None:
        """Show how far it is; `part` names what of it runs, `total` 0 is not known."""
        title = f"{self._title}: {part}" if part else self._title
        amount = f"{done}/{total} {unit}".rstrip() if total else ""
        left = f"{eta_seconds:.0f} s left" if eta_seconds is not None else ""
        self._steps.bars.update(
            self._task, description=escape(title), completed=done, total=total or None, amount=amount, left=left
        )
        share = done / total if total else 0.0
        if title != self._spoken[0] or share >= self._spoken[1] + SPOKEN_SHARE:
            self._spoken = (title, share)
            self._steps.say(f"  {title} {amount}".rstrip())

    def close(self) -> None:
        """Take the bar away."""
        self._steps.bars.remove_task(self._task)


class Steps:
    """The steps of a run, one after the other, in a `with`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(),
            _Left(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bars.stop()

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step; when it is done, a line says what it took and found."""
        self.say(f"{title} ...")
        step, began = Step(self, title), time.monotonic()
        try:
            yield step
        finally:
            step.seconds = time.monotonic() - began
            step.close()
        line = Text.assemble(
            (f"{step.seconds:6.1f} s  ", "dim"), title, (f"  {step.note}" if step.note else "", "cyan")
        )
        self.console.print(line, soft_wrap=True)

    def say(self, line: str) -> None:
        """A line for those who see no bars."""
        if not self.console.is_terminal:
            self.console.print(Text(line), soft_wrap=True)


class _Left(TextColumn):
    """What the service expects, or else what the pace so far promises."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        remaining = task.time_remaining
        pace = f"{remaining:.0f} s left" if remaining is not None and not task.finished else ""
        return Text(str(task.fields["left"]) or pace, style="dim")

"""Runs the process of a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.influence.limits import Breach
from services.influence.messages import CancelledMessage, FailedMessage, Message, SucceededMessage

LastMessage = SucceededMessage | FailedMessage | CancelledMessage
OnMessage = Callable[[Message], None]


@dataclass(frozen=True, kw_only=True)
class ExitReport:
    """How a job process ended.

    Attributes:
        last: Its last message; None when it ended without one.
        exit_code: None when a signal ended it, or when it never started.
        signal: Name of that signal, for example SIGKILL.
        asked_to_stop: It was ended on our request.
        breach: The limit for which it was ended.
        log_tail: The last lines of its log, without secrets.
    """

    last: LastMessage | None = None
    exit_code: int | None = None
    signal: str | None = None
    asked_to_stop: bool = False
    breach: Breach | None = None
    log_tail: str = ""


def how_it_ended(report: ExitReport) -> str:
    """A line for the log of the job: it is kept also of runs that were tried again."""
    how = report.signal or ("lost" if report.exit_code is None else f"exit code {report.exit_code}")
    if report.breach is not None:
        how = f"{how}, {report.breach.reason}: {report.breach.message}"
    elif report.asked_to_stop:
        how = f"{how}, asked to stop"
    return f"the job process ended ({how})"


class JobRunner(Protocol):
    """Runs job processes, each in a folder of its own that holds its `job.json`.

    At most one process works in a folder at any time, also across restarts and crashes of this server.
    """

    async def run(self, folder: Path, on_message: OnMessage) -> ExitReport:
        """Run a job to its end, whatever that is. `on_message` is called on the event loop.

        When the caller is cancelled a process on this machine is killed; what runs elsewhere goes on, and is followed
        by the next `run` on the folder.
        """
        ...

    def cancel(self, folder: Path) -> None:
        """Ask the process in a folder to stop, and see to it that it does soon. `run` then returns.

        Idempotent. Does nothing where nothing works in the folder.
        """
        ...

    def leave(self, folder: Path) -> None:
        """This server stops: end what cannot go on without it, and let go of what can. `run` then returns."""
        ...

    async def reap(self, folder: Path) -> None:
        """Wait until nothing of an earlier server works in a folder that `run` would not go on with.

        After `cancel` that is all there is. What does not end by itself is ended after a while.
        """
        ...

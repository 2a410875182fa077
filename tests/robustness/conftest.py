"""Fixtures of the tests that break things."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.servers import Servers


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Servers]:
    """A server with the job table of its state folder: each that is started is the same one again."""
    with ExitStack() as stack:
        yield Servers(tmp_path, "", stack)

"""Fixtures of the tests that use real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.influence_app import Influence, running_influence


@pytest.fixture
async def influence(tmp_path: Path) -> AsyncIterator[Influence]:
    """The influence service, with jobs that follow a script."""
    async with running_influence(tmp_path) as running:
        yield running

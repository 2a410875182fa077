"""Fixtures for every test."""

from __future__ import annotations

from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder with real data and ground truth that lies beside the repository."""
    path = REPO.parent / "shared"
    if not (path / "cases").is_dir():
        pytest.skip(f"needs the real data and ground truth in {path}, which is not there")
    return path

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.common.settings import StorageSettings
from services.common.storage.router import open_store
from services.embedding import app as app_module
from services.embedding.app import EmbeddingApp
from services.embedding.session import Device
from services.embedding.settings import EmbeddingSettings


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[EmbeddingApp]:
    settings = EmbeddingSettings(state_dir=tmp_path, device=Device.CPU)
    app = EmbeddingApp(settings, open_store(StorageSettings()), uri_schemes=())
    yield app
    await app.close()


async def test_a_state_file_that_answers_is_sound(app: EmbeddingApp) -> None:
    assert await app.check_state() is None


async def test_a_state_file_that_was_closed_is_told_by_its_reason(app: EmbeddingApp) -> None:
    app._database.close()
    assert await app.check_state() == "the state file cannot be used (RESOURCE_PROBLEM)"


async def test_a_state_file_that_hangs_holds_no_probe_and_is_asked_once(
    app: EmbeddingApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "STATE_PATIENCE_S", 0.05)
    go, asked = threading.Event(), []

    def hang() -> None:
        asked.append(1)
        go.wait(20)

    monkeypatch.setattr(app._database, "check", hang)
    for _ in range(3):
        assert await app.check_state() == "the state file has not answered for 0.05 s"
    assert len(asked) == 1
    go.set()
    monkeypatch.setattr(app_module, "STATE_PATIENCE_S", 10.0)
    assert await app.check_state() is None

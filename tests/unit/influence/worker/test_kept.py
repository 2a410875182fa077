"""Results that later jobs can use."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.common.storage.base import ObjectStore
from services.influence.worker.kept import Kept, key_of
from tests.stores import local_place


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return local_place(tmp_path).store


@pytest.fixture
def kept(tmp_path: Path, store: ObjectStore) -> Kept:
    return Kept(store, (tmp_path / "kept").as_uri())


def test_what_was_put_is_got(kept: Kept) -> None:
    assert kept.get("a") is None
    kept.put("a", b"one")
    kept.put("a", b"two")
    assert kept.get("a") == b"two"
    assert kept.get("b") is None


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 40])
def test_what_was_damaged_is_not_there(kept: Kept, tmp_path: Path, damage: bytes) -> None:
    kept.put("a", b"content")
    (tmp_path / "kept" / "a").write_bytes(damage)
    assert kept.get("a") is None


def test_nothing_is_kept_where_that_is_not_allowed(store: ObjectStore, tmp_path: Path) -> None:
    elsewhere = Kept(store, (tmp_path.parent / "elsewhere").as_uri())
    elsewhere.put("a", b"content")
    assert elsewhere.get("a") is None
    assert not (tmp_path.parent / "elsewhere").exists()


def test_parts_of_a_key_do_not_run_together() -> None:
    keys = [key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of("ab", "c", ""), key_of(b"ab", b"c")]
    assert len(set(keys)) == 4
    assert keys[0] == keys[4] == key_of(memoryview(b"ab"), "c")

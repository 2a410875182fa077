from __future__ import annotations

from pathlib import Path

import pytest

from services.influence.worker import kept_thumbnails
from services.influence.worker.kept import Kept
from services.influence.worker.kept_thumbnails import KeptThumbnails
from tests.stores import Place, local_place


def digest(number: int) -> bytes:
    return bytes([number]) * 32


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return local_place(tmp_path)


def opened(place: Place, prefix: str = "s3://b/out") -> KeptThumbnails:
    return KeptThumbnails(Kept(place.store, place.uri("thumbnails")), prefix)


def objects(place: Place) -> list[tuple[str, int]]:
    return [(info.uri, info.size) for info in place.store.list(place.uri(""))]


def store(place: Place, numbers: range, *, size: int = 10, asked: tuple[int, ...] = ()) -> None:
    thumbnails = opened(place)
    for number in asked:
        assert thumbnails.get(digest(number)) is not None
    for number in numbers:
        thumbnails.add(digest(number), bytes([number]) * size)
    thumbnails.store()


def test_the_next_audit_finds_them(place: Place) -> None:
    assert opened(place).get(digest(1)) is None
    store(place, range(1, 3))
    later = opened(place)
    assert [later.get(digest(number)) for number in (1, 2, 3)] == [b"\x01" * 10, b"\x02" * 10, None]


def test_those_of_another_output_prefix_are_not_found(place: Place) -> None:
    store(place, range(1, 3))
    assert opened(place, "s3://b/of-another-project").get(digest(1)) is None


def test_nothing_new_is_not_stored_again(place: Place) -> None:
    store(place, range(1, 3))
    ((uri, _),) = objects(place)
    before = place.store.head(uri)
    store(place, range(0), asked=(1, 2))
    assert place.store.head(uri) == before


def test_those_that_were_not_asked_for_make_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_thumbnails, "MAX_BYTES", 40)
    store(place, range(1, 5))
    store(place, range(5, 7), asked=(4,))
    later = opened(place)
    assert [number for number in range(1, 7) if later.get(digest(number))] == [1, 4, 5, 6]


@pytest.mark.parametrize("damage", [b"", b"no pictures", b"\0" * 200])
def test_what_is_damaged_is_passed_over(place: Place, damage: bytes) -> None:
    store(place, range(1, 3))
    ((uri, _),) = objects(place)
    place.store.put(uri, damage)
    assert opened(place).get(digest(1)) is None


@pytest.mark.parametrize("content", [b"", b"no pictures", b"\xff" * 200])
def test_what_is_whole_but_no_pictures_is_passed_over(place: Place, content: bytes) -> None:
    store(place, range(1, 3))
    ((uri, _),) = objects(place)
    Kept(place.store, place.uri("thumbnails")).put(uri.rpartition("/")[2], content)
    assert opened(place).get(digest(1)) is None

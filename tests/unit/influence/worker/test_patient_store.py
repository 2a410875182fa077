from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.common.storage.base import ObjectStore
from services.influence.worker import patient_store as module
from services.influence.worker.cancellation import Cancellation, Cancelled
from services.influence.worker.patient_store import PatientStore
from tests.stores import Place, local_place


class Away:
    """A store of which every method fails so many times before it is the one behind it."""

    def __init__(self, store: ObjectStore, times: int, reason: str = "STORAGE_UNAVAILABLE") -> None:
        self._store, self.left, self.reason = store, times, reason
        self.asked = threading.Event()

    def __getattr__(self, name: str) -> object:
        self.asked.set()
        if self.left:
            self.left -= 1
            raise ServiceError(self.reason, "away")
        return getattr(self._store, name)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return local_place(tmp_path / "objects")


def patient(away: Away, *, patience_s: float = 60.0, check: Callable[[], None] = lambda: None) -> PatientStore:
    return PatientStore(away, patience_s=patience_s, check=check)  # type: ignore[arg-type]  # by __getattr__


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.001)


def test_every_request_is_repeated_until_it_is_answered(place: Place, tmp_path: Path) -> None:
    uri, copy = place.uri("folder/name"), tmp_path / "copy"
    away = Away(place.store, 0)
    store = patient(away)
    requests: list[tuple[Callable[[], object], object]] = [
        (lambda: store.put(uri, b"content", if_absent=True).size, 7),
        (lambda: store.head(uri).size, 7),
        (lambda: store.read(uri, max_bytes=7), b"content"),
        (lambda: store.download(uri, copy, max_bytes=7) and copy.read_bytes(), b"content"),
        (lambda: [info.uri for info in store.list(place.uri("folder/"))], [uri]),
        (lambda: store.open(uri, offset=3, length=2).__enter__().read(), b"te"),
        (lambda: store.delete(uri), None),
        (lambda: list(store.list(place.uri(""))), []),
    ]
    for request, expected in requests:
        away.left = 3
        assert request() == expected
        assert away.left == 0


@pytest.mark.parametrize("reason", ["OBJECT_NOT_FOUND", "STORAGE_DENIED", "OBJECT_DIGEST_MISMATCH", "OBJECT_CHANGED"])
def test_what_does_not_go_away_by_itself_is_raised_at_once(place: Place, reason: str) -> None:
    away = Away(place.store, 2, reason)
    with pytest.raises(ServiceError) as caught:
        patient(away).read(place.uri("name"), max_bytes=1)
    assert (caught.value.reason, away.left) == (reason, 1)


def test_patience_has_an_end(place: Place) -> None:
    away = Away(place.store, 1_000_000)
    with pytest.raises(ServiceError) as caught:
        patient(away, patience_s=0.05).head(place.uri("name"))
    assert caught.value.reason == "STORAGE_UNAVAILABLE"
    assert away.left < 1_000_000 - 1


def test_no_patience_is_one_request(place: Place) -> None:
    away = Away(place.store, 5)
    with pytest.raises(ServiceError):
        patient(away, patience_s=0).head(place.uri("name"))
    assert away.left == 4


def test_a_cancel_ends_the_wait(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 600.0)
    away, cancellation = Away(place.store, 5), Cancellation()
    store = patient(away, patience_s=3600, check=cancellation.check)

    def cancel() -> None:
        away.asked.wait(20)
        cancellation.request()

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(Cancelled):
        store.head(place.uri("name"))
    canceller.join()

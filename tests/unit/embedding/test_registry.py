from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from services.common.errors import ServiceError
from services.embedding.records import Record
from services.embedding.registry import Database, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Thing(Record):
    uid: int


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.sqlite"


@pytest.fixture
def database(path: Path) -> Iterator[Database]:
    opened = Database(path)
    yield opened
    opened.close()


def models(database: Database) -> Registry[Thing]:
    return Registry(database, collection="models", kind=Thing, noun="MODEL")


def indexes(database: Database) -> Registry[Thing]:
    return Registry(database, collection="indexes", kind=Thing, noun="INDEX")


def add(
    registry: Registry[Thing],
    uid: int,
    name: str = "p/m",
    *,
    request_id: str | None = None,
    digest: str = "d",
    uses: str | None = None,
) -> Thing:
    return registry.add(Thing(uid=uid), name, "p", request_id=request_id, digest=digest, uses=uses)


def test_what_was_added_comes_back_after_a_restart(database: Database, path: Path) -> None:
    add(models(database), 2, "p/b")
    add(models(database), 1, "p/a")
    add(indexes(database), 3, "p/i", uses="p/a")
    models(database).update(Thing(uid=22), "p/b")
    database.close()
    again = Database(path)
    assert models(again).all() == [Thing(uid=1), Thing(uid=22)]
    assert indexes(again).all() == [Thing(uid=3)]
    again.close()


def test_a_name_is_taken_once(database: Database) -> None:
    add(models(database), 1)
    for digest in ("d", "other"):
        with pytest.raises(ServiceError, match="p/m exists") as caught:
            add(models(database), 2, digest=digest)
        assert caught.value.reason == "MODEL_ALREADY_EXISTS"
    assert models(database).all() == [Thing(uid=1)]


def test_the_same_request_gets_what_it_created(database: Database) -> None:
    registry = models(database)
    assert registry.existing("p/m", "p", request_id="r", digest="d") is None
    add(registry, 1, request_id="r")
    assert add(registry, 2, request_id="r") == Thing(uid=1)
    assert registry.existing("p/m", "p", request_id="r", digest="d") == Thing(uid=1)


@pytest.mark.parametrize(("name", "digest"), [("p/m", "other"), ("p/n", "d")])
def test_a_request_id_for_something_else_is_refused(database: Database, name: str, digest: str) -> None:
    add(models(database), 1, request_id="r")
    with pytest.raises(ServiceError, match="request_id r has created p/m") as caught:
        add(models(database), 2, name, request_id="r", digest=digest)
    assert caught.value.reason == "REQUEST_ID_REUSED"


def test_request_ids_of_models_and_indexes_do_not_meet(database: Database) -> None:
    add(models(database), 1, "p/m", request_id="r")
    assert add(indexes(database), 2, "p/i", request_id="r") == Thing(uid=2)


def test_a_removed_name_and_its_request_id_are_free_again(database: Database) -> None:
    add(models(database), 1, request_id="r")
    models(database).remove("p/m")
    assert add(models(database), 2, request_id="r", digest="other") == Thing(uid=2)


def test_a_model_in_use_stays(database: Database) -> None:
    add(models(database), 1)
    add(indexes(database), 2, "p/i", uses="p/m")
    with pytest.raises(ServiceError, match="used by p/i") as caught:
        models(database).remove("p/m")
    assert caught.value.reason == "MODEL_IN_USE"
    indexes(database).remove("p/i")
    models(database).remove("p/m")
    assert models(database).all() == []


def test_what_is_used_must_be_there(database: Database) -> None:
    with pytest.raises(ServiceError, match="no model p/m") as caught:
        add(indexes(database), 2, "p/i", uses="p/m")
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert indexes(database).all() == []


def test_updating_what_is_gone_does_not_bring_it_back(database: Database) -> None:
    models(database).update(Thing(uid=1), "p/m")
    assert models(database).all() == []


def test_of_many_at_once_one_creates(database: Database) -> None:
    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(lambda uid: add(models(database), uid, request_id="r"), range(40)))
    assert len({thing.uid for thing in created}) == 1


def test_a_file_of_another_version_is_refused(database: Database, path: Path) -> None:
    database.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ServiceError, match="schema 99"):
        Database(path)


def test_a_disk_that_does_not_take_it_is_a_reason_and_not_the_end(database: Database) -> None:
    database._connection.execute("PRAGMA max_page_count = 1")
    big = Record.model_construct()
    with pytest.raises(ServiceError, match="cannot be kept") as caught:
        Registry(database, collection="models", kind=Record, noun="MODEL").add(
            big, "p/" + "x" * 100_000, "p", request_id=None, digest="d"
        )
    assert caught.value.reason == "RESOURCE_PROBLEM"
    database._connection.execute("PRAGMA max_page_count = 100000")
    assert add(models(database), 1) == Thing(uid=1)

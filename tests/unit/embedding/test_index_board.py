from __future__ import annotations

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

from eif_engine.config import NeighborSpace
from services.common.errors import ServiceError
from services.embedding.index_board import IndexBoard
from services.embedding.records import IndexRecord, IndexSpec, IndexState

NAME = "projects/p/indexes/i"


def record(state: IndexState = IndexState.BUILDING, *, done: int = 0, uid: str = "u", name: str = NAME) -> IndexRecord:
    spec = IndexSpec(name=name, model="m", manifest_uri="s3://b/m.csv", space=NeighborSpace.EMBEDDING)
    now = datetime.now(UTC)
    return IndexRecord(uid=uid, spec=spec, folder="f", state=state, samples_done=done, create_time=now, update_time=now)


async def collect(board: IndexBoard, *, heartbeat_seconds: float = 20) -> list[tuple[IndexState, int, bool]]:
    return [
        (one.state, one.samples_done, heartbeat)
        async for one, heartbeat in board.changes(NAME, heartbeat_seconds=heartbeat_seconds)
    ]


async def test_a_watch_sees_the_first_and_the_last_state_and_ends() -> None:
    board = IndexBoard(asyncio.Event())
    board.put(record())
    watching = asyncio.create_task(collect(board))
    await asyncio.sleep(0.05)
    for done in range(1, 30):
        board.put(record(done=done))
    board.put(record(IndexState.READY, done=30))
    events = await asyncio.wait_for(watching, 5)
    assert events[0] == (IndexState.BUILDING, 0, False)
    assert events[-1] == (IndexState.READY, 30, False)
    assert len(events) < 10, "changes that come together are told together"


async def test_changes_while_an_event_is_being_sent_are_not_lost() -> None:
    board = IndexBoard(asyncio.Event())
    board.put(record())
    async with aclosing(board.changes(NAME, heartbeat_seconds=20)) as changes:
        await anext(changes)
        board.put(record(IndexState.FAILED))
        last, heartbeat = await asyncio.wait_for(anext(changes), 5)
    assert (last.state, heartbeat) == (IndexState.FAILED, False)


async def test_a_watch_of_a_finished_index_is_one_event() -> None:
    board = IndexBoard(asyncio.Event())
    board.put(record(IndexState.READY, done=3))
    assert await collect(board) == [(IndexState.READY, 3, False)]


async def test_heartbeats_come_when_nothing_changes() -> None:
    board = IndexBoard(asyncio.Event())
    board.put(record())
    async with aclosing(board.changes(NAME, heartbeat_seconds=0.01)) as changes:
        beats = [(await asyncio.wait_for(anext(changes), 5))[1] for _ in range(4)]
    assert beats == [False, True, True, True]
    assert board._watches == set()


@pytest.mark.parametrize("gone", ["removed", "deleting", "another"])
async def test_a_watch_ends_when_its_index_goes(gone: str) -> None:
    board = IndexBoard(asyncio.Event())
    board.put(record())
    watching = asyncio.create_task(collect(board))
    await asyncio.sleep(0.02)
    if gone == "removed":
        board.remove(NAME)
    else:
        board.put(record(IndexState.DELETING) if gone == "deleting" else record(uid="other"))
    with pytest.raises(ServiceError) as caught:
        await asyncio.wait_for(watching, 5)
    assert caught.value.reason == "INDEX_NOT_FOUND"


async def test_a_watch_ends_when_the_server_stops() -> None:
    stopping = asyncio.Event()
    board = IndexBoard(stopping)
    board.put(record())
    watching = asyncio.create_task(collect(board))
    await asyncio.sleep(0.02)
    stopping.set()
    with pytest.raises(ServiceError) as caught:
        await asyncio.wait_for(watching, 5)
    assert caught.value.reason == "SERVER_STOPPING"


def test_what_is_being_deleted_is_only_there_to_be_deleted() -> None:
    board = IndexBoard(asyncio.Event())
    board.put(record(IndexState.DELETING))
    board.put(record(name="projects/p/indexes/a"))
    board.put(record(name="projects/other/indexes/b"))
    assert board.names("projects/p/indexes") == ["projects/p/indexes/a"]
    assert board.deletable(NAME).state is IndexState.DELETING
    for name in (NAME, "projects/p/indexes/none"):
        with pytest.raises(ServiceError, match=f"no index {name}"):
            board.get(name)
    with pytest.raises(ServiceError):
        board.deletable("projects/p/indexes/none")

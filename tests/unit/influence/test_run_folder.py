from __future__ import annotations

import time
from pathlib import Path

import pytest

from services.influence.messages import FailedMessage, Message, ProgressMessage, TotalsMessage
from services.influence.run_folder import RunFolder
from services.influence.worker.mailbox import Mailbox
from tests.stores import Place, local_place
from tests.waiting import eventually

LAST = FailedMessage(reason="IMAGE_INVALID", message="x")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return local_place(tmp_path)


@pytest.fixture
def folder(place: Place) -> RunFolder:
    return RunFolder(place.store, place.uri("results/uid/.run/1"))


def progress(done: int) -> ProgressMessage:
    return ProgressMessage(stage="features", done=done, total=9, unit="samples", stages_done=0, stages_total=5)


def test_messages_come_back_in_order(folder: RunFolder) -> None:
    assert folder.read_messages() == []
    messages: list[Message] = [progress(3), TotalsMessage(cache_hits=2), LAST]
    folder.write_messages(messages)
    assert folder.read_messages() == messages


def test_what_is_no_message_is_passed_over(folder: RunFolder, place: Place) -> None:
    lines = [b"not json", b'{"type": "unknown"}', progress(1).model_dump_json().encode(), b"\xff"]
    place.store.put(f"{folder.uri}/messages.jsonl", b"\n".join(lines))
    assert folder.read_messages() == [progress(1)]


def test_its_age_counts_from_the_start_of_its_process(folder: RunFolder, place: Place) -> None:
    assert folder.age_s() == 0
    folder.note_start()
    assert 0 <= folder.age_s() < 60
    place.store.put(f"{folder.uri}/started", f"{time.time() - 3600}".encode())
    assert 3600 <= folder.age_s() < 3660
    place.store.put(f"{folder.uri}/started", f"{time.time() + 3600}".encode())  # a clock that is ahead
    assert folder.age_s() == 0
    place.store.put(f"{folder.uri}/started", b"no time")
    assert folder.age_s() == 0


def test_nothing_stays_of_it(folder: RunFolder, place: Place) -> None:
    folder.write_messages([LAST])
    place.store.put(place.uri("results/uid/.run/11/messages.jsonl"), b"of another attempt")
    folder.remove()
    assert [info.uri for info in place.store.list(place.uri("results/"))] == [
        place.uri("results/uid/.run/11/messages.jsonl")
    ]


async def test_a_mailbox_holds_the_newest_of_each_kind(folder: RunFolder) -> None:
    mailbox = Mailbox(folder)
    mailbox.send(TotalsMessage(cache_hits=1))
    for done in range(5):
        mailbox.send(progress(done))
    await eventually(lambda: folder.read_messages() == [TotalsMessage(cache_hits=1), progress(4)])


@pytest.mark.parametrize("timeout_s", [-1, 1.0])
def test_the_last_message_is_there_when_it_was_sent_and_nothing_comes_after_it(
    folder: RunFolder, timeout_s: float
) -> None:
    mailbox = Mailbox(folder)
    mailbox.send(progress(1))
    mailbox.send(LAST, timeout_s=timeout_s)
    assert folder.read_messages() == [progress(1), LAST]
    mailbox.send(progress(2))
    assert folder.read_messages() == [progress(1), LAST]

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from services.common.storage.metered import StorageCall
from services.influence.messages import MESSAGE, Message, ProgressMessage, StorageRequests, TotalsMessage
from services.influence.worker.totals import INTERVAL_S, JobTotals, TotalsSender

PROGRESS = ProgressMessage(stage="s", done=0, total=1, unit="x", stages_done=0, stages_total=1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_threads_record_is_added_up_and_travels_as_json() -> None:
    totals = JobTotals()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(200):
            pool.submit(totals.record, StorageCall(op="read", code="OK", size=3, seconds=0.5))
            pool.submit(totals.record, StorageCall(op="put", code="OBJECT_EXISTS", size=0, seconds=0.25))
    totals.features(hits=1, misses=2)
    totals.features(hits=3, misses=4)
    totals.shards(pending=5, running=6)
    totals.shard_attempt("succeeded", 2)
    totals.shard_attempt("retried")
    message = totals.message()
    assert message.requests() == {("read", "OK"): 200, ("put", "OBJECT_EXISTS"): 200}
    assert message.storage_bytes == {"read": 600, "put": 0}
    assert message.storage_seconds == {"read": 100.0, "put": 50.0}
    assert (message.cache_hits, message.cache_misses) == (4, 6)
    assert (message.shards_pending, message.shards_running) == (5, 6)
    assert message.shard_attempts == {"succeeded": 2, "retried": 1}
    assert MESSAGE.validate_json(message.model_dump_json()) == message


def test_requests_of_another_process_count_and_nothing_else_of_it() -> None:
    totals, other = JobTotals(), JobTotals()
    for each in (totals, other):
        each.record(StorageCall(op="read", code="OK", size=3, seconds=0.5))
    other.record(StorageCall(op="put", code="OK", size=7, seconds=0.25))
    other.features(hits=0, misses=9)
    totals.add(other.message())
    message = totals.message()
    assert message.requests() == {("read", "OK"): 2, ("put", "OK"): 1}
    assert (message.storage_bytes, message.storage_seconds) == ({"read": 6, "put": 7}, {"read": 1.0, "put": 0.25})
    assert message.cache_misses == 0


def test_totals_are_sent_with_progress_now_and_then_and_at_the_end_when_they_changed() -> None:
    totals, sent, clock = JobTotals(), list[Message](), Clock()
    send = TotalsSender(totals, sent.append, clock=clock)
    totals.features(hits=1, misses=0)
    send(PROGRESS)
    assert sent == [PROGRESS]
    clock.now += INTERVAL_S
    send(PROGRESS)
    first = TotalsMessage(cache_hits=1)
    assert sent == [PROGRESS, PROGRESS, first]
    clock.now += INTERVAL_S
    send(PROGRESS)
    send.flush()
    assert sent == [PROGRESS, PROGRESS, first, PROGRESS]
    totals.record(StorageCall(op="put", code="OK", size=1, seconds=0.0))
    send.flush()
    assert isinstance(sent[-1], TotalsMessage)
    assert sent[-1].storage_requests == (StorageRequests(op="put", code="OK", count=1),)

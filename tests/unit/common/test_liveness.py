from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from services.common.liveness import ThreadWatch
from tests.waiting import eventually


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_threads_that_do_nothing_for_long_are_stuck_and_may_recover() -> None:
    clock, go = Clock(), threading.Event()
    with ThreadPoolExecutor(2) as threads:
        watch = ThreadWatch(threads, "the job table", stuck_s=30, clock=clock)
        assert await watch.check() is None
        held = [threads.submit(go.wait, 20) for _ in range(2)]
        await eventually(lambda: all(each.running() for each in held))
        assert await watch.check() is None  # it is given something to do
        clock.now += 29
        assert await watch.check() is None
        clock.now += 2
        assert await watch.check() == "the threads of the job table have done nothing for 31 s"
        go.set()
        await eventually(lambda: all(each.done() for each in held))
        await eventually(lambda: watch._asked is not None and watch._asked.done())
        assert await watch.check() is None
    assert await watch.check() is None  # shut down


async def test_one_free_thread_is_enough() -> None:
    clock, go = Clock(), threading.Event()
    with ThreadPoolExecutor(2) as threads:
        watch = ThreadWatch(threads, "x", stuck_s=30, clock=clock)
        threads.submit(go.wait, 20)
        for _ in range(5):
            assert await watch.check() is None
            await eventually(lambda: watch._asked is not None and watch._asked.done())
            clock.now += 100
        go.set()

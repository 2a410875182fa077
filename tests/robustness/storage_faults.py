"""What is done to the object store, on the way to it, and to the objects, while servers and clients go on."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import psutil

from tests.objects import S3Objects
from tests.s3_proxy import Fault, Request, Rule, S3Proxy, calm
from tests.weed import ADMIN, NEXT_ADMIN, Keys, Weed

SHORT_S = 3.0
"""Most of them last so long at most."""
OUTAGE_S = 9.0
"""Longer than a request is repeated by the store itself."""

_T = TypeVar("_T")


class StorageFaults:
    """Faults of an S3 server.

    Args:
        weed: The server.
        proxy: On the way to it.
        objects: What lies there.
        inputs: Texts that jobs read, by the names of their objects.
        seed: Decides how bad each is.
    """

    def __init__(self, weed: Weed, proxy: S3Proxy, objects: S3Objects, inputs: dict[str, str], seed: int) -> None:
        self._weed, self._proxy, self._objects, self._inputs = weed, proxy, objects, inputs
        self._random, self._lock = random.Random(seed), Lock()
        self._keys = (ADMIN, NEXT_ADMIN)
        self.faults: list[Callable[[], None]] = [
            self.refuse_requests,
            self.slow_requests,
            self.cut_bodies,
            self.lose_answers,
            self.refuse_commits,
            self.corrupt_tables,
            self.replace_inputs,
            self.expire_keys,
            self.freeze_store,
        ]

    def refuse_requests(self) -> None:
        """Every request is turned away, or none gets through."""
        fault = self._one([Fault(status=503), Fault(status=429), Fault(status=500), Fault(drop=True)])
        with self._weather(lambda _request: fault):
            self._pass(self._one([SHORT_S, OUTAGE_S]))

    def slow_requests(self) -> None:
        """Every request takes its time."""
        with self._weather(lambda _request: Fault(delay_s=self._number(0.1, 1.0))):
            self._pass(SHORT_S)

    def cut_bodies(self) -> None:
        """Most bodies break off, somewhere."""
        with self._weather(self._cut):
            self._pass(SHORT_S)

    def lose_answers(self) -> None:
        """Much of what is written is written, but nobody is told."""
        with self._weather(self._lose):
            self._pass(SHORT_S)

    def refuse_commits(self) -> None:
        """No MANIFEST.json can be written; all else can."""

        def rule(request: Request) -> Fault:
            commits = request.method == "PUT" and "MANIFEST.json" in request.path
            return Fault(status=503) if commits else Fault()

        with self._weather(rule):
            self._pass(self._one([SHORT_S, OUTAGE_S]))

    def corrupt_tables(self) -> None:
        """Tables arrive with one bit changed."""
        with self._weather(lambda request: Fault(flip=request.method == "GET" and ".parquet" in request.path)):
            self._pass(2 * SHORT_S)

    def replace_inputs(self) -> None:
        """What jobs read is replaced while bodies break off: by the same, but for the space at its end."""
        end = time.monotonic() + SHORT_S
        with self._weather(self._cut):
            while time.monotonic() < end:
                for name, text in self._inputs.items():
                    self._objects.put(name, text + " " * self._one(range(1, 20)))
        for name, text in self._inputs.items():
            self._objects.put(name, text)

    def expire_keys(self) -> None:
        """The keys expire, and are renewed a moment later."""
        old, new = self._keys
        with self._weather(lambda request: _expired(request, old)):
            self._pass(SHORT_S)
            self._objects.use(new)
            self._keys = (new, old)
            self._pass(SHORT_S)

    def freeze_store(self) -> None:
        """The server takes connections, and answers nothing."""
        server = psutil.Process(self._weed.process.pid)
        processes = (server, *server.children(recursive=True))
        for process in processes:
            process.suspend()
        try:
            self._pass(SHORT_S)
        finally:
            for process in processes:
                process.resume()

    @contextmanager
    def _weather(self, rule: Rule) -> Iterator[None]:
        self._proxy.rule = rule
        try:
            yield
        finally:
            self._proxy.rule = calm

    def _cut(self, request: Request) -> Fault:
        if request.method != "GET" or self._number(0, 1) < 0.3:
            return Fault()
        return Fault(cut_after=int(self._number(0, 1) ** 3 * 20_000))

    def _lose(self, request: Request) -> Fault:
        return Fault(lose_answer=request.method in {"PUT", "DELETE"} and self._number(0, 1) < 0.5)

    def _pass(self, most_s: float) -> None:
        time.sleep(self._number(0.3, 1) * most_s)

    def _number(self, low: float, high: float) -> float:
        with self._lock:  # the threads of the proxy ask too
            return self._random.uniform(low, high)

    def _one(self, choices: Sequence[_T]) -> _T:
        with self._lock:
            return self._random.choice(choices)


def _expired(request: Request, keys: Keys) -> Fault:
    return Fault(status=400, code="ExpiredToken") if request.access_key == keys.access_key else Fault()

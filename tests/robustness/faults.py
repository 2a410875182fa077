"""What is done to servers, job processes and the database while clients go on."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

from tests.influence_process import InfluenceProcess
from tests.postgres import Postgres
from tests.robustness.history import OK, Event, History, Operation
from tests.servers import LEASE_S, Servers

SETTINGS = {
    "EIF_INFLUENCE_MAX_RUNNING_JOBS": "3",
    "EIF_INFLUENCE_MAX_PENDING_JOBS": "8",
    "EIF_INFLUENCE_MAX_ATTEMPTS": "100",
}
"""Few jobs wait, so that all has settled soon after the last fault. Every fault may cost a job an attempt: they must
not use them up."""


class Deck:
    """Faults in an order that a seed decides: each comes once before any comes again.

    Args:
        faults: Each does something, and what it takes to get over it.
        history: Takes them.
        seed: Decides the order.
    """

    def __init__(self, faults: Sequence[Callable[[], None]], history: History, seed: int) -> None:
        self._faults, self._history, self._random = tuple(faults), history, random.Random(seed)
        self._left: list[Callable[[], None]] = []
        self.count: Counter[str] = Counter()

    def play(self, *, wanted: Callable[[], bool], quiet_s: float) -> None:
        """One after the other, with some quiet before each, for as long as they are wanted."""
        while wanted():
            time.sleep(quiet_s)
            if not self._left:
                self._left = self._random.sample(self._faults, len(self._faults))
            self._one(self._left.pop())

    def _one(self, fault: Callable[[], None]) -> None:
        begun, name = time.monotonic(), fault.__name__
        fault()
        self.count[name] += 1
        self._history.add(
            Event(operation=Operation.FAULT, begun=begun, ended=time.monotonic(), outcome=OK, reason=name)
        )


class Cluster:
    """Servers on one database, some of which are not there at times.

    Args:
        servers: Starts them.
        postgres: Their database.
        names: Of the servers.
        seed: Decides what becomes of which.
        settings: Of the servers.
    """

    def __init__(self, servers: Servers, postgres: Postgres, names: str, seed: int, **settings: str) -> None:
        self._servers, self._postgres, self._settings = servers, postgres, SETTINGS | settings
        self._random = random.Random(seed)
        self._running: dict[str, InfluenceProcess] = {name: self._started(name) for name in names}
        self._lock = threading.Lock()
        self.exit_codes: list[int] = []
        self.faults: list[Callable[[], None]] = [
            self.kill_server,
            self.stop_server,
            self.pause_server,
            self.kill_job,
            self.pause_job,
            self.kill_database,
            self.freeze_database,
            self.kill_everything,
        ]

    def addresses(self) -> list[str]:
        """Of all servers, also of those that are down now."""
        with self._lock:
            return [server.address for server in self._running.values()]

    def kill_server(self) -> None:
        """SIGKILL, and a new server on the same state folder."""
        name = self._random.choice(sorted(self._running))
        self._running[name].kill()
        time.sleep(self._random.uniform(0, 1))
        self._start(name)

    def stop_server(self) -> None:
        """SIGTERM, and a new server on the same state folder."""
        name = self._random.choice(sorted(self._running))
        self.exit_codes.append(self._running[name].terminate())
        self._start(name)

    def pause_server(self) -> None:
        """SIGSTOP for longer than its leases last, as a machine that hangs; its job processes go on."""
        process = self._running[self._random.choice(sorted(self._running))].process
        process.send_signal(signal.SIGSTOP)
        time.sleep(LEASE_S + 1.5)
        process.send_signal(signal.SIGCONT)

    def kill_job(self) -> None:
        """SIGKILL to a job process, as the kernel does when memory is short."""
        self._signal_job(signal.SIGKILL)

    def pause_job(self) -> None:
        """SIGSTOP to a job process for a while."""
        process = self._signal_job(signal.SIGSTOP)
        time.sleep(self._random.uniform(0.5, 2))
        if process is not None:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def kill_database(self) -> None:
        """The database crashes, and recovers."""
        self._postgres.kill()
        time.sleep(self._random.uniform(0.2, 2))
        self._postgres.start()

    def freeze_database(self) -> None:
        """The database answers nothing for a while; connections stay open."""
        self._postgres.freeze()
        time.sleep(self._random.uniform(0.5, LEASE_S + 1))
        self._postgres.thaw()

    def kill_everything(self) -> None:
        """SIGKILL to every server, every job process and the database, as when the power goes, and all starts again."""
        jobs = [job for server in self._running.values() for job in psutil.Process(server.process.pid).children()]
        self._postgres.kill(at_once=True)
        for server in self._running.values():
            server.kill()
        for job in jobs:
            with suppress(psutil.NoSuchProcess):
                job.kill()
        self._postgres.start()
        for name in sorted(self._running):
            self._start(name)

    def _signal_job(self, number: signal.Signals) -> int | None:
        """To some job process; None where there is none."""
        servers = [psutil.Process(server.process.pid) for server in self._running.values()]
        jobs = sorted(child.pid for server in servers for child in server.children())
        if not jobs:
            return None
        chosen = self._random.choice(jobs)
        with suppress(ProcessLookupError):
            os.kill(chosen, number)
        return chosen

    def _start(self, name: str) -> None:
        started = self._started(name)
        with self._lock:
            self._running[name] = started

    def _started(self, name: str) -> InfluenceProcess:
        return self._servers.start(name, **self._settings)

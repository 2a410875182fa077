from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.influence.worker.cancellation import Cancellation, Cancelled
from services.influence.worker.lock import LOCK_NAME, take_lock

HOLDER = """
import sys, time
from pathlib import Path
from services.influence.worker.lock import take_lock
take_lock(Path(sys.argv[1]), timeout_s=0, check=lambda: None)
print("held", flush=True)
time.sleep(60)
"""


def no_check() -> None:
    pass


def test_a_second_attempt_is_refused_after_its_patience(tmp_path: Path) -> None:
    take_lock(tmp_path, timeout_s=0, check=no_check)
    with pytest.raises(ServiceError, match="older attempt of this job still runs") as caught:
        take_lock(tmp_path, timeout_s=0.1, check=no_check)
    assert caught.value.reason == "RESOURCE_PROBLEM"


def test_a_killed_process_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ServiceError):
            take_lock(tmp_path, timeout_s=0, check=no_check)
        threading.Timer(0.1, holder.kill).start()
        handle = take_lock(tmp_path, timeout_s=20, check=no_check)
    os.close(handle)


def test_waiting_ends_when_the_job_is_cancelled(tmp_path: Path) -> None:
    take_lock(tmp_path, timeout_s=0, check=no_check)
    cancellation = Cancellation()
    threading.Timer(0.1, cancellation.request).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        take_lock(tmp_path, timeout_s=60, check=cancellation.check)
    assert time.monotonic() - started < 5


def test_the_lock_is_not_handed_to_children(tmp_path: Path) -> None:
    handle = take_lock(tmp_path, timeout_s=0, check=no_check)
    assert not os.get_inheritable(handle)
    assert (tmp_path / LOCK_NAME).exists()

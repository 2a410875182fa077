from __future__ import annotations

import resource
import subprocess
import sys

import psutil
import pytest

from eif_engine.errors import MemoryExceeded
from services.influence.worker.memory import available_bytes, require

LIMITED = """
import resource
from services.influence.worker.memory import available_bytes
limit = 8 << 30
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(available_bytes())
"""


def test_what_is_available_is_no_more_than_the_machine_has() -> None:
    assert 0 < available_bytes() <= psutil.virtual_memory().total


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY, reason="ulimit -v is set")
def test_the_limit_of_the_process_counts() -> None:
    output = subprocess.run([sys.executable, "-c", LIMITED], check=True, capture_output=True, text=True).stdout
    assert 0 < int(output) < 8 << 30


def test_what_fits_passes() -> None:
    require(1000, budget=1000, what="a job")


def test_what_cannot_fit_is_refused_with_both_figures() -> None:
    with pytest.raises(
        MemoryExceeded, match="a job on 5 samples needs about 1,001 bytes of memory, but 1,000"
    ) as caught:
        require(1001, budget=1000, what="a job on 5 samples")
    assert caught.value.metadata == {"needed_bytes": "1001", "budget_bytes": "1000"}


def test_a_budget_above_what_there_is_does_not_help() -> None:
    with pytest.raises(MemoryExceeded):
        require(2**60, budget=2**61, what="a job")

from __future__ import annotations

import ctypes
import threading

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.common import gpu_memory
from services.common.gpu_memory import GpuMemory, read_gpu_memory
from tests.waiting import eventually


def has_gpu() -> bool:
    try:
        return bool(ctypes.CDLL("libnvidia-ml.so.1"))
    except OSError:
        return False


def test_without_a_driver_there_is_nothing() -> None:
    if has_gpu():
        pytest.skip("this machine has a driver")
    assert read_gpu_memory() == {}
    registry = CollectorRegistry()
    GpuMemory(registry)
    assert b"# TYPE eif_gpu_memory_bytes gauge" in generate_latest(registry)


@pytest.mark.gpu
def test_a_gpu_has_memory() -> None:
    if not has_gpu():
        pytest.skip("needs a GPU and its driver")
    memory = read_gpu_memory()
    assert memory["cuda:0", "total"] > 1 << 30
    assert 0 <= memory["cuda:0", "used"] <= memory["cuda:0", "total"]


async def test_a_driver_that_hangs_holds_up_no_scrape_and_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    go, asked = threading.Event(), []

    def hang() -> gpu_memory.Memory:
        asked.append(1)
        go.wait(20)
        return {("cuda:0", "used"): 5.0}

    monkeypatch.setattr(gpu_memory, "read_gpu_memory", hang)
    monkeypatch.setattr(gpu_memory, "REFRESH_S", 0.0)
    registry = CollectorRegistry()
    GpuMemory(registry)
    labels = {"device": "cuda:0", "state": "used"}
    for _ in range(3):
        assert registry.get_sample_value("eif_gpu_memory_bytes", labels) is None
    assert len(asked) == 1
    go.set()
    await eventually(lambda: registry.get_sample_value("eif_gpu_memory_bytes", labels) == 5)

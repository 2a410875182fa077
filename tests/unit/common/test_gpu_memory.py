from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from pathlib import Path

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


_NVML = """
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
static int devices[2];
static int open_;
int nvmlInit_v2(void) { open_ = 1; return 0; }
int nvmlShutdown(void) { open_ = 0; return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 3; return open_ ? 0 : 1; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, int **device) {
    if (index == 1) return 15; /* the GPU is lost */
    *device = &devices[index / 2];
    return 0;
}
int nvmlDeviceGetMemoryInfo(int *device, nvmlMemory_t *memory) {
    memory->total = 80ULL << 30; memory->free = 70ULL << 30;
    memory->used = device == &devices[0] ? 10ULL << 30 : 5;
    return 0;
}
"""
"""The part of the driver's library that is used, as its header has it; the second of three GPUs is lost."""


def test_a_gpu_that_is_lost_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=_NVML, text=True, check=True)
    monkeypatch.setattr(gpu_memory, "_LIBRARY", str(library))
    assert read_gpu_memory() == {
        ("cuda:0", "used"): float(10 << 30),
        ("cuda:0", "total"): float(80 << 30),
        ("cuda:2", "used"): 5.0,
        ("cuda:2", "total"): float(80 << 30),
    }


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

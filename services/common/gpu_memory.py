"""Memory of the GPUs of this machine, from the driver's management library (NVML), where there is one.

NVML needs no CUDA context and no memory of the device. It can hang when a GPU is lost, so it is asked in a thread of
its own, and a scrape tells what it said last.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

REFRESH_S = 5.0

_LIBRARY = "libnvidia-ml.so.1"

Memory = dict[tuple[str, str], float]
"""Bytes by device (`cuda:0`) and state (`used`, `total`)."""


class _NvmlMemory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def read_gpu_memory() -> Memory:
    """Memory of each GPU now; empty without a driver."""
    try:
        nvml = ctypes.CDLL(_LIBRARY)
    except OSError:
        return {}
    if nvml.nvmlInit_v2() != 0:
        return {}
    try:
        return dict(_each(nvml))
    finally:
        nvml.nvmlShutdown()


def _each(nvml: ctypes.CDLL) -> Iterator[tuple[tuple[str, str], float]]:
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return
    for number in range(count.value):
        device, memory = ctypes.c_void_p(), _NvmlMemory()
        if nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(device)) != 0:
            continue
        if nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0:
            yield (f"cuda:{number}", "used"), float(memory.used)
            yield (f"cuda:{number}", "total"), float(memory.total)


class GpuMemory(Collector):
    """`eif_gpu_memory_bytes`; nothing where there is no GPU."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._known: Memory = {}
        self._asking: threading.Thread | None = None
        self._asked_at = float("-inf")
        self._ask()
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if time.monotonic() - self._asked_at >= REFRESH_S:
            self._ask()
        family = GaugeMetricFamily("eif_gpu_memory_bytes", "Memory of a GPU.", labels=["device", "state"])
        for (device, state), size in self._known.items():
            family.add_metric([device, state], size)
        yield family

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("eif_gpu_memory_bytes", "Memory of a GPU.", labels=["device", "state"])

    def _ask(self) -> None:
        if self._asking is not None and self._asking.is_alive():
            return  # a GPU that is lost: what is known stays
        self._asked_at = time.monotonic()
        self._asking = threading.Thread(target=self._refresh, name="gpu-memory", daemon=True)
        self._asking.start()

    def _refresh(self) -> None:
        self._known = read_gpu_memory()

"""Devices that jobs can use here. The driver is asked in a process of its own: it never enters this one."""

from __future__ import annotations

import asyncio
import sys

_TIMEOUT_S = 20.0
_COUNT_CUDA = """
import ctypes
count = ctypes.c_int()
cuda = ctypes.CDLL("libcuda.so.1")
print(count.value if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0)
"""


async def find_devices() -> tuple[str, ...]:
    """`cpu`, and `cuda:0` and so on where there is a driver and it answers."""
    return ("cpu", *(f"cuda:{number}" for number in range(await _count_cuda())))


async def _count_cuda() -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _COUNT_CUDA,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return 0
    return int(output) if output.strip().isdigit() else 0

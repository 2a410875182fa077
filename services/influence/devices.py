"""Devices that jobs can use here. The driver is asked in a process of its own: it never enters this one."""

from __future__ import annotations

import asyncio
import sys

_TIMEOUT_S = 20.0
_LIST_GPUS = """
import ctypes, uuid
cuda = ctypes.CDLL("libcuda.so.1")
count = ctypes.c_int()
if cuda.cuInit(0) == 0 and cuda.cuDeviceGetCount(ctypes.byref(count)) == 0:
    for number in range(count.value):
        device, name, number_bytes = ctypes.c_int(), ctypes.create_string_buffer(256), (ctypes.c_ubyte * 16)()
        assert cuda.cuDeviceGet(ctypes.byref(device), number) == 0
        assert cuda.cuDeviceGetName(name, 256, device) == 0
        assert cuda.cuDeviceGetUuid_v2(number_bytes, device) == 0
        kind = "MIG" if b" MIG " in name.value else "GPU"
        print(f"{kind}-{uuid.UUID(bytes=bytes(number_bytes))}")
"""


async def find_devices() -> tuple[str, ...]:
    """`cpu`, and `cuda:0` and so on where there is a driver and it answers."""
    return ("cpu", *(f"cuda:{number}" for number in range(len(await find_gpus()))))


async def find_gpus() -> tuple[str, ...]:
    """Ids of the GPUs, the same whoever asks, as CUDA_VISIBLE_DEVICES takes them; empty where no driver answers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _LIST_GPUS,
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
        return ()
    return tuple(output.decode().split())

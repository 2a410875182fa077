"""Runs the probe of a new ONNX bundle in a child process and tells what came out."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eif_engine.errors import OnnxInvalid

if TYPE_CHECKING:
    from pathlib import Path

PROBE = "services.embedding.onnx_probe"
_KEPT_ENVIRONMENT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "HOME")
"""What the probe may see of the environment: never the credentials of the object store."""


@dataclass(frozen=True, kw_only=True)
class ProbeLimits:
    """What loading a model and running one batch may take.

    Attributes:
        memory_bytes: Address space of the process.
        seconds: Of time, and of each core.
        batch: Largest batch that is tried.
    """

    memory_bytes: int = 8 << 30
    seconds: int = 120
    batch: int = 32


async def check_onnx(folder: Path, limits: ProbeLimits) -> None:
    """Load a bundle and run it in a process of its own, which ends with the caller when that is cancelled.

    Raises:
        OnnxInvalid: Why it cannot be used, also when it crashed, took too long or too much memory.
    """
    process = await asyncio.create_subprocess_exec(
        *_command(folder, limits), stdout=PIPE, stderr=PIPE, cwd="/", env=_environment()
    )
    try:
        async with asyncio.timeout(limits.seconds):
            out, err = await process.communicate()
    except TimeoutError:
        raise OnnxInvalid(
            f"the model did not load and run a batch of {limits.batch} within {limits.seconds} s",
            seconds=limits.seconds,
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    _raise_outcome(await process.wait(), out, err, limits)


def _command(folder: Path, limits: ProbeLimits) -> list[str]:
    numbers = (limits.batch, limits.memory_bytes, limits.seconds)
    # -P: the folder of the model is not a place to import from.
    return [sys.executable, "-P", "-m", PROBE, str(folder), *map(str, numbers)]


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": "1"}


def _raise_outcome(code: int, out: bytes, err: bytes, limits: ProbeLimits) -> None:
    if code != 0:
        raise OnnxInvalid(
            f"loading the model ended its process: {_why(code, err)} (limits: {limits.memory_bytes:,} bytes of memory, "
            f"{limits.seconds} s)"
        )
    outcome = json.loads(out)
    if outcome:
        error = OnnxInvalid(outcome["message"], **outcome["metadata"])
        error.reason = outcome["reason"]
        raise error


def _why(code: int, err: bytes) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    lines = err.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"exit code {code}"

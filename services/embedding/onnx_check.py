"""Runs the probe of a new ONNX bundle in a child process and tells what came out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eif_engine.errors import OnnxInvalid

if TYPE_CHECKING:
    from pathlib import Path

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


def check_onnx(folder: Path, limits: ProbeLimits) -> None:
    """Load a bundle and run it in a process of its own.

    Raises:
        OnnxInvalid: Why it cannot be used, also when it crashed, took too long or too much memory.
    """
    numbers = (limits.batch, limits.memory_bytes, limits.seconds)
    # -P: the folder of the model is not a place to import from.
    command = [sys.executable, "-P", "-m", "services.embedding.onnx_probe", str(folder), *map(str, numbers)]
    environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
    try:
        done = subprocess.run(  # noqa: S603  the command is fixed, the folder is this server's
            command,
            capture_output=True,
            cwd="/",
            env={**environment, "OMP_NUM_THREADS": "1"},
            timeout=limits.seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OnnxInvalid(
            f"the model did not load and run a batch of {limits.batch} within {limits.seconds} s",
            seconds=limits.seconds,
        ) from None
    _raise_outcome(done, limits)


def _raise_outcome(done: subprocess.CompletedProcess[bytes], limits: ProbeLimits) -> None:
    if done.returncode != 0:
        raise OnnxInvalid(
            f"loading the model ended its process: {_why(done)} (limits: {limits.memory_bytes:,} bytes of memory, "
            f"{limits.seconds} s)"
        )
    outcome = json.loads(done.stdout)
    if outcome:
        error = OnnxInvalid(outcome["message"], **outcome["metadata"])
        error.reason = outcome["reason"]
        raise error


def _why(done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        return f"signal {signal.Signals(-done.returncode).name}"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else f"exit code {done.returncode}"

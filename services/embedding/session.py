"""Sessions of ONNX Runtime: their options, and the execution provider that this machine really gives."""

from __future__ import annotations

import ctypes
import io
import logging
from contextlib import redirect_stdout
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort

from eif_engine.errors import DeviceUnavailable

if TYPE_CHECKING:
    from pathlib import Path

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

FATAL_ONLY = 4
"""Severity of what ONNX Runtime may print itself: its errors are raised too, and logs of this process are JSON."""

_CUDA_OPTIONS = {
    "use_tf32": "0",  # 10 bits of mantissa would move embeddings by 1e-3
    "cudnn_conv_algo_search": "HEURISTIC",  # the default times every algorithm again for each size of a batch
    "arena_extend_strategy": "kSameAsRequested",
}
_RELU = bytes.fromhex(
    "08083a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801"
    "620f0a0179120a0a08080112040a02080142040a001011"
)
"""An ONNX model of one node, y = Relu(x), x of shape (1,): tells whether a provider computes at all."""

logger = logging.getLogger(__name__)


class Device(StrEnum):
    """Where models run; AUTO is a CUDA device where there is one."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def available_providers() -> list[str]:
    """Providers this build of ONNX Runtime was compiled with, whatever the machine has."""
    return list(ort.get_available_providers())


def choose_provider(device: Device) -> str:
    """The execution provider that sessions of this process get, found out by computing with it.

    Raises:
        DeviceUnavailable: CUDA was asked for and does not work here.
    """
    ort.set_default_logger_severity(FATAL_ONLY)
    if device is Device.CPU:
        return CPU
    devices = cuda_devices()
    fault = _cuda_fault() if devices else "this machine has no CUDA device, or no driver for it"
    if fault is None:
        return CUDA
    if device is Device.CUDA:
        raise DeviceUnavailable(f"CUDA was asked for, but {fault}", device=device.value)
    if devices:
        logger.warning("models run on the CPU although there is a CUDA device: %s", fault)
    return CPU


def cuda_devices() -> int:
    """CUDA devices that the driver shows to this process; 0 without a driver. Loads nothing on them."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def open_session(model: Path | bytes, *, provider: str, threads: int) -> ort.InferenceSession:
    """A session on `provider`, or on the CPU where ONNX Runtime falls back: ask it with `provider_of`.

    Raises:
        Exception: One of ONNX Runtime's own classes, which have no common base.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    # The arena keeps what its largest batch took for ever; without it memory goes back, at no cost that was measurable.
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False  # plans memory for one shape; batches here have any size
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores to others
    options.add_session_config_entry("session.load_model_format", "ONNX")  # never guess another format from the bytes
    providers: list[Any] = [(CUDA, _CUDA_OPTIONS), CPU] if provider == CUDA else [CPU]
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, sess_options=options, providers=providers)


def provider_of(session: ort.InferenceSession) -> str:
    """The provider that a session really runs on."""
    return str(session.get_providers()[0])


def one_line(error: BaseException, *, folder: Path | None = None) -> str:
    """An error of ONNX Runtime for a message: one line, not too long, without the folder of the model."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text if folder is None else text.replace(f"{folder}/", "")
    return text if len(text) <= 300 else f"{text[:300]}..."


def _cuda_fault() -> str | None:
    """Why CUDA does not work although there is a device; None when it does."""
    if CUDA not in ort.get_available_providers():
        return "this build of ONNX Runtime has no CUDA provider (the package onnxruntime-gpu has)"
    missing = _preload_libraries()
    try:
        session = open_session(_RELU, provider=CUDA, threads=1)
        (result,) = session.run(None, {"x": np.ones(1, dtype=np.float32)})
    except Exception as error:  # noqa: BLE001  ONNX Runtime's exceptions have no common base
        return f"ONNX Runtime cannot compute on it: {error} {missing}".strip()
    if provider_of(session) != CUDA or result[0] != 1:
        return f"ONNX Runtime cannot start its CUDA provider; CUDA and cuDNN libraries are needed. {missing}".strip()
    return None


def _preload_libraries() -> str:
    """Load CUDA and cuDNN from installed packages. Returns what it prints about those that are missing."""
    if not hasattr(ort, "preload_dlls"):
        return ""
    printed = io.StringIO()
    with redirect_stdout(printed):
        ort.preload_dlls()
    return printed.getvalue().strip()

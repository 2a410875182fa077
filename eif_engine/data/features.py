"""Penultimate features, image by image the same whoever asks.

Convolution libraries choose their algorithm by the shape of a batch, and so the last bits of a feature depend on how
many images ran beside it. Everything here therefore runs in batches of one fixed size, the last one padded, whatever
the sizes of the batches that come in; smaller ones only where a GPU has no memory for them, and then that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eif_engine.errors import CheckpointIncompatible, GpuMemoryExceeded

BATCH_SIZE = 64
"""Part of what a stored feature means: raise FEATURES_VERSION of models/bundle.py with it."""


def extract(
    backbone: nn.Module,
    batches: Iterable[NDArray[np.float32]],
    *,
    device: torch.device,
    batch_size: int = BATCH_SIZE,
    on_smaller: Callable[[int], None] = lambda size: None,  # noqa: ARG005  the name says what it is called with
) -> Iterator[NDArray[np.float32]]:
    """Run a backbone over images.

    Args:
        backbone: Images (B, C, H, W) to features (B, F), on `device`. It runs in eval mode and is given back in the
            mode it was in.
        batches: Preprocessed images (b, C, H, W) in any portions, also empty ones. Read one at a time, as needed.
        device: Where the backbone is.
        batch_size: Images that run together; half as many, and half of that, where they do not fit on the GPU.
        on_smaller: Called with the new size before the first features of smaller batches are yielded: their last bits
            are not those of full ones.

    Yields:
        Features (n, F) of the next n images, n = `batch_size` but for the last.

    Raises:
        CheckpointIncompatible: The backbone gives NaN or infinite features, naming the row.
        GpuMemoryExceeded: Not even one image fits on the GPU.
    """
    done, size = 0, batch_size
    with _eval_mode(backbone):
        for images_BCHW in _regroup(batches, batch_size):
            features_BF, fitting = _run(backbone, images_BCHW, device, size)
            if fitting < size:
                size = fitting
                on_smaller(size)
            _check_finite(features_BF, done)
            done += len(features_BF)
            yield features_BF


def _run(
    backbone: nn.Module, images_BCHW: NDArray[np.float32], device: torch.device, size: int
) -> tuple[NDArray[np.float32], int]:
    """Features, and the size of the batches in which they fitted: `size`, or half of it as often as need be."""
    while True:
        try:
            starts = range(0, len(images_BCHW), size)
            parts = [_run_batch(backbone, images_BCHW[start : start + size], device, size) for start in starts]
            return np.concatenate(parts), size
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise GpuMemoryExceeded(
                    f"not even one image of shape {images_BCHW.shape[1:]} fits on {device} with this model: use a GPU "
                    "with more memory, or one that nobody else uses",
                    device=str(device),
                ) from error
        size //= 2
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _run_batch(
    backbone: nn.Module, images_BCHW: NDArray[np.float32], device: torch.device, size: int
) -> NDArray[np.float32]:
    count = len(images_BCHW)
    padded_BCHW = np.zeros((size, *images_BCHW.shape[1:]), dtype=np.float32)
    padded_BCHW[:count] = images_BCHW
    with torch.inference_mode(), exact_arithmetic(device):
        features_BF = backbone(torch.from_numpy(padded_BCHW).to(device))[:count].cpu().numpy()
    return np.ascontiguousarray(features_BF, dtype=np.float32)


def _regroup(batches: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """The same rows in groups of `size`; holds at most one group and one incoming batch."""
    held: list[NDArray[np.float32]] = []
    count = 0
    for incoming in batches:
        rest = incoming
        while count + len(rest) >= size:
            taken = size - count
            yield np.concatenate([*held, rest[:taken]])
            held, count, rest = [], 0, rest[taken:]
        if len(rest):
            held.append(rest)
            count += len(rest)
    if count:
        yield np.concatenate(held)


def _check_finite(features_BF: NDArray[np.float32], before: int) -> None:
    bad = np.flatnonzero(~np.isfinite(features_BF).all(axis=1))
    if len(bad):
        row = before + int(bad[0])
        raise CheckpointIncompatible(
            f"the backbone gives NaN or infinite features for image {row} (from 0): its weights, or its preprocessing, "
            "are broken",
            row=row,
        )


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


def exact_arithmetic(device: torch.device) -> AbstractContextManager[None]:
    """On a GPU: full float32 (no TF32) and no algorithm chosen by timing."""
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return flags

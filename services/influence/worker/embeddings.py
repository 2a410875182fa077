"""Embeddings from features that lie in a file, a block at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.models.head import Head

BLOCK_ROWS = 16_384


def embed(head: Head, x_NF: NDArray[np.float32], *, check: Callable[[], None]) -> Tensor:
    """Embeddings (N, D), not normalised, where the head is and in its precision. `check` is called for each block."""
    weight = head.weight_DF
    z_ND = torch.empty((len(x_NF), len(weight)), dtype=weight.dtype, device=weight.device)
    for start in range(0, len(x_NF), BLOCK_ROWS):
        check()
        rows = slice(start, start + BLOCK_ROWS)
        z_ND[rows] = head.embed(torch.from_numpy(x_NF[rows]).to(weight.device, weight.dtype))
    return z_ND

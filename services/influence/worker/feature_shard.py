"""A stored shard of features: safetensors with `features` (n, F) float32 and `digests` (n, 32), sha256 of the images.

A shard is named by its own sha256, so that a damaged one is told from its name, and written once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from services.influence.worker.split import DIGEST_BYTES

SUFFIX = ".safetensors"

Digests = NDArray[np.uint8]
Features = NDArray[np.float32]


def pack(digests_N: Digests, features_NF: Features) -> bytes:
    """The bytes of a shard."""
    return save({"digests": np.ascontiguousarray(digests_N), "features": np.ascontiguousarray(features_NF)})


def unpack(path: Path, *, feature_dim: int) -> tuple[Digests, Features] | None:
    """Digests and features of a shard, or None when it is not one of this model."""
    try:
        with safe_open(path, framework="numpy") as file:
            digests, features = file.get_tensor("digests"), file.get_tensor("features")
    except (SafetensorError, OSError):
        return None
    if digests.dtype != np.uint8 or features.dtype != np.float32 or not np.isfinite(features).all():
        return None
    if digests.shape != (len(digests), DIGEST_BYTES) or features.shape != (len(digests), feature_dim):
        return None
    return digests, features

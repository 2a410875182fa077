"""Vectors as the service handles them: float32, L2-normalised, rows of a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32 = NDArray[np.float32]

UNIT_TOLERANCE = 1e-6
"""A vector whose length is this close to 1 is taken as normalised and left as it is, bit for bit."""


def normalize(vectors_ND: NDArray[np.floating]) -> Float32:
    """L2-normalise each row, in float64 inside.

    Idempotent: rows that already have length 1 come back unchanged, so that a vector this service gave out finds itself
    at distance exactly 0. Rows that have no direction (see `has_direction`) come back as NaN.
    """
    wide_ND = vectors_ND.astype(np.float64)
    length_N = np.sqrt(np.square(wide_ND).sum(axis=1))
    length_N[np.abs(length_N - 1) <= UNIT_TOLERANCE] = 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.ascontiguousarray(wide_ND / length_N[:, None], dtype=np.float32)


def has_direction(vectors_ND: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which rows can be normalised: all values finite, and not all zero."""
    finite_N = np.isfinite(vectors_ND).all(axis=1)
    nonzero_N = (vectors_ND != 0).any(axis=1)
    return np.asarray(finite_N & nonzero_N)

"""An upper bound of cosine similarities from a few principal coordinates, so that most pairs are never multiplied out.

With a unit vector split into its part a_h along the principal axes and the rest a_t, by Cauchy and Schwarz

    <a, b> = <a_h, b_h> + <a_t, b_t>  <=  <a_h, b_h> + |a_t| |b_t|,

which is the inner product of the coordinates with |a_t| as one more of them. Features of trained networks lie near few
axes, so rows that cannot be among the nearest are told from an eighth or a quarter of the work, and the search stays
exact: a row whose nearest the bound does not prove is searched in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MOST_CANDIDATES = 128
"""Rows of the largest bounds that are measured exactly, at most."""

LEAST_ROWS = 8192
"""Fewer are searched in full at once."""

_PILOTS = 256
"""Rows by which the number of coordinates is chosen."""

_PROVEN = 0.95
"""Share of the pilots whose nearest the candidates must prove, or more coordinates are taken."""

_PILOT_BLOCK = 32
_FEWEST_COORDINATES = 64
_BLOCK_ROWS = 8192
_ROUNDING = 64
"""In units of the dtype's epsilon."""


@dataclass(frozen=True)
class SimilarityBound:
    """Coordinates of N unit vectors, whose inner products are no less than those of the vectors.

    Attributes:
        y_NH: The first H - 1 principal coordinates and the length of the rest.
        candidates: Rows of the largest bounds that are to be measured.
    """

    y_NH: Tensor
    candidates: int

    @classmethod
    def fitted(cls, vn_NF: Tensor, count: int) -> SimilarityBound | None:
        """With as few coordinates as prove the `count` nearest of most rows; None where a full search costs less."""
        samples, dim = vn_NF.shape
        if samples < LEAST_ROWS or count >= MOST_CANDIDATES:
            return None
        axes_FF = _principal_axes(vn_NF)
        pilots = torch.split(torch.arange(0, samples, samples // _PILOTS, device=vn_NF.device), _PILOT_BLOCK)
        # Of the row itself, which is the nearest, and `count` others.
        least = [(vn_NF[pilot_B] @ vn_NF.T).topk(count + 1, dim=1).values[:, -1] for pilot_B in pilots]
        coordinates = _FEWEST_COORDINATES
        while coordinates <= dim // 2:
            y_NH = _coordinates(vn_NF, axes_FF[:, : coordinates - 1])
            close = [_close(y_NH, pilot_B, least_B) for pilot_B, least_B in zip(pilots, least, strict=True)]
            needed = int(torch.cat(close).double().quantile(_PROVEN, interpolation="higher"))
            if needed <= MOST_CANDIDATES:  # a few rows need more than others, and a full search is dear
                return cls(y_NH, min(max(2 * needed, count), MOST_CANDIDATES))
            coordinates *= 2
        return None

    def of(self, rows_B: Tensor, out: Tensor | None = None) -> Tensor:
        """Upper bounds (B, N) of the similarities between some rows and all."""
        return torch.mm(self.y_NH[rows_B], self.y_NH.T, out=out)


def slack(dtype: torch.dtype) -> float:
    """What rounding may add to a similarity, or take off it."""
    return _ROUNDING * torch.finfo(dtype).eps


def _principal_axes(vn_NF: Tensor) -> Tensor:
    """Orthonormal columns (F, F), the one with the largest second moment first."""
    second_FF = torch.zeros(vn_NF.shape[1], vn_NF.shape[1], dtype=vn_NF.dtype, device=vn_NF.device)
    for part_BF in torch.split(vn_NF, _BLOCK_ROWS):
        second_FF.addmm_(part_BF.T, part_BF)
    axes_FF: Tensor = torch.linalg.eigh(second_FF).eigenvectors.flip(1)
    return axes_FF


def _coordinates(vn_NF: Tensor, axes_FH: Tensor) -> Tensor:
    y_NH = vn_NF @ axes_FH
    # No less than the true length: a square this near to 0 has lost its digits.
    rest_N = (1 - y_NH.square().sum(dim=1)).clamp_min_(0).add_(slack(vn_NF.dtype)).sqrt_()
    return torch.cat((y_NH, rest_N[:, None]), dim=1)


def _close(y_NH: Tensor, rows_B: Tensor, least_B: Tensor) -> Tensor:
    """How many other rows may be as similar as that (B,)."""
    return (y_NH[rows_B] @ y_NH.T >= least_B[:, None] - slack(y_NH.dtype)).sum(dim=1) - 1

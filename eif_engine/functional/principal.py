"""What a probe sees of vectors: centred, of unit length, and along their principal components where they are long."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_COMPONENTS = 512
"""A probe costs the square and the cube of the dimension, and more components tell it no more."""

_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class PrincipalView:
    """A fixed centre and basis, so that vectors that move are seen as they were before.

    Attributes:
        center_F: Mean of the vectors that it was fitted to.
        basis_FK: Orthonormal; None where all F dimensions are seen.
    """

    center_F: Tensor
    basis_FK: Tensor | None

    @classmethod
    def fitted(cls, v_NF: Tensor, *, components: int = MOST_COMPONENTS) -> PrincipalView:
        """The view of vectors along their principal components, the `components` largest where F is more."""
        centered = cls(v_NF.mean(dim=0), None)
        dim = v_NF.shape[1]
        if dim <= components:
            return centered
        second_FF = torch.zeros(dim, dim, dtype=v_NF.dtype, device=v_NF.device)
        for part_BF in torch.split(v_NF, _BLOCK_ROWS):
            seen_BF = centered.of(part_BF)
            second_FF.addmm_(seen_BF.T, seen_BF)
        vectors_FF = torch.linalg.eigh(second_FF).eigenvectors
        return cls(centered.center_F, vectors_FF[:, -components:].contiguous())

    def of(self, v_NF: Tensor) -> Tensor:
        """The vectors (N, K) as the probe sees them."""
        seen_NF = F.normalize(v_NF - self.center_F, dim=1)
        return seen_NF if self.basis_FK is None else seen_NF @ self.basis_FK

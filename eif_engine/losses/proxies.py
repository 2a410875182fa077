"""What losses with one proxy a class have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.losses.cosine import CosineLoss


@dataclass(frozen=True)
class ProxyPerClass:
    """A loss of the cosines to one vector a class.

    Attributes:
        proxies_CD: One proxy (or weight vector) a class; normalised by the loss.
    """

    proxies_CD: Tensor

    @property
    def num_classes(self) -> int:
        """C."""
        return self.proxies_CD.shape[0]

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.proxies_CD.shape[1]

    @property
    def representatives_PD(self) -> Tensor:
        """Normalised proxies."""
        return F.normalize(self.proxies_CD, dim=1)

    def cosines(self, z_ND: Tensor) -> Tensor:
        """Of embeddings to the proxies (N, C)."""
        return F.normalize(z_ND, dim=1) @ self.representatives_PD.T

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Self:
        """The same loss elsewhere."""
        return replace(self, proxies_CD=self.proxies_CD.to(device, dtype))


@runtime_checkable
class CosineProxies(CosineLoss, Protocol):
    """A loss of cosines whose representatives are its normalised proxies, one a class."""

    @property
    def proxies_CD(self) -> Tensor:
        """Not normalised."""
        ...

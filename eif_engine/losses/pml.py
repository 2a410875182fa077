"""Losses of pytorch-metric-learning with learnt vectors of the classes, through the library itself."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eif_engine.losses.pml_classes import PROXY_CLASSES
from eif_engine.losses.pml_library import check_values, library_loss
from eif_engine.losses.settings import PmlSettings

_BLOCK_ELEMENTS = 2**20
"""Of the largest array that the library makes at a time; it makes a handful."""


@dataclass(frozen=True, eq=False)
class PmlLoss:
    """What the library gives for each sample, regularisers aside (they do not depend on the sample).

    ProxyNCALoss leaves out samples whose probability underflows; they count 0 here.

    Attributes:
        library: The library's loss, with its parameters; never changed.
        num_classes: C.
        embedding_dim: D.
        centers_per_class: Learnt vectors of a class.
    """

    library: nn.Module
    num_classes: int
    embedding_dim: int
    centers_per_class: int

    @classmethod
    def of(cls, settings: PmlSettings, vectors_CKD: Tensor) -> PmlLoss:
        """The loss with these learnt vectors. Raises InvalidInput for arguments that the class cannot work with."""
        proxy_class, (C, K, D) = PROXY_CLASSES[settings.class_], vectors_CKD.shape
        library = library_loss(settings, num_classes=C, embedding_size=D)
        rows_PD = vectors_CKD.detach().flatten(0, 1)
        value = (rows_PD.T if proxy_class.columns else rows_PD).clone(memory_format=torch.contiguous_format)
        setattr(library, proxy_class.parameter, nn.Parameter(value, requires_grad=False))
        loss = cls(library, C, D, K)
        check_values(loss, settings, like=value)
        return loss

    @property
    def parameters(self) -> dict[str, Tensor]:
        """As the library names them."""
        return dict(self.library.state_dict())

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Losses (N,). Embeddings must have the dtype of the loss: the library would convert its parameters."""
        (parameter,) = self.library.parameters()
        if z_ND.dtype != parameter.dtype:
            raise TypeError(f"embeddings are {z_ND.dtype}, the loss {parameter.dtype}: move the loss first")
        if len(z_ND) == 0:
            return z_ND.sum(1)
        rows = max(1, _BLOCK_ELEMENTS // (self.num_classes * self.centers_per_class))
        parts = zip(torch.split(z_ND, rows), torch.split(labels_N, rows), strict=True)
        return torch.cat([self._block(z_BD, labels_B) for z_BD, labels_B in parts])

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> PmlLoss:
        """The same loss elsewhere."""
        library = copy.deepcopy(self.library).to(device, dtype)
        return PmlLoss(library, self.num_classes, self.embedding_dim, self.centers_per_class)

    def _block(self, z_BD: Tensor, labels_B: Tensor) -> Tensor:
        terms = self.library(z_BD, labels_B)["loss"]
        return z_BD.new_zeros(len(z_BD)).index_add(0, terms["indices"], terms["losses"])

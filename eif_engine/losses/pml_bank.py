"""Losses of pairs and triplets of pytorch-metric-learning, through the library itself, against a fixed bank."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eif_engine.errors import InvalidInput
from eif_engine.losses.bank import Bank, Rows, make_bank
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.pml_classes import BANK_CLASSES, TRIPLET_CLASSES, Shape
from eif_engine.losses.pml_library import check_values, is_average_of_positive, library_loss
from eif_engine.losses.settings import PmlSettings
from eif_engine.models.head import Head

_BLOCK_ELEMENTS = 2**20
"""Of the largest array that the library makes at a time; it makes a handful."""
_PAIR_ELEMENTS = 2**14
"""Of pairs of pairs, of which most are of two samples and count nothing: few samples at a time waste less."""


@dataclass(frozen=True, eq=False)
class PmlBankLoss:
    """What the library gives for a sample as the only anchor, with the bank as reference.

    Its terms (pairs, triplets) are averaged as the library does by default: over those above 0, or over all.

    Attributes:
        library: The library's loss; never changed.
        settings: Its class and arguments.
        positive_only: Whether terms are averaged over those above 0 alone.
        num_classes: C.
        embedding_dim: D.
        bank: None until `with_bank`.
    """

    library: nn.Module
    settings: PmlSettings
    positive_only: bool
    num_classes: int
    embedding_dim: int
    bank: Bank | None = None

    @classmethod
    def of(cls, settings: PmlSettings, *, num_classes: int, embedding_dim: int) -> PmlBankLoss:
        """The loss, without a bank yet. Raises InvalidInput for arguments that the class cannot work with."""
        library = library_loss(settings)
        loss = cls(library, settings, is_average_of_positive(library), num_classes, embedding_dim)
        some_PD = F.normalize(torch.arange(3.0 * embedding_dim).sin().reshape(3, -1), dim=1)
        check_values(replace(loss, bank=Bank(some_PD, torch.tensor([0, 1, 1]), 2)), settings, like=some_PD)
        return loss

    def per_sample(self, z_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Losses (N,). Embeddings must have the dtype of the loss.

        Raises:
            InvalidInput: There is no bank yet.
        """
        if self.bank is None:
            raise InvalidInput(
                f"loss {self.settings.class_} compares samples with representatives of the classes: give it the "
                "training embeddings first (eif_engine.losses.pml_bank.with_bank)"
            )
        if z_ND.dtype != self.bank.z_PD.dtype:
            raise TypeError(f"embeddings are {z_ND.dtype}, the bank {self.bank.z_PD.dtype}: move the loss first")
        if len(z_ND) == 0:
            return z_ND.sum(1)
        rows = block_rows(BANK_CLASSES[self.settings.class_], self.bank)
        parts = zip(torch.split(z_ND, rows), torch.split(labels_N, rows), strict=True)
        return torch.cat([self._block(z_BD, labels_B, self.bank) for z_BD, labels_B in parts])

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> PmlBankLoss:
        """The same loss elsewhere."""
        bank = None if self.bank is None else self.bank.to(device=device, dtype=dtype)
        return replace(self, library=copy.deepcopy(self.library).to(device, dtype), bank=bank)

    def _block(self, z_BD: Tensor, labels_B: Tensor, bank: Bank) -> Tensor:
        if len(z_BD) == 1:  # the library makes nothing of one anchor (NCALoss), or of one with a pair of each kind
            return self._block(z_BD.expand(2, -1), labels_B.expand(2), bank)[:1]
        triplets = _triplets(labels_B, bank.labels_P) if self.settings.class_ in TRIPLET_CLASSES else None
        terms = self.library(z_BD, labels_B, triplets, ref_emb=bank.z_PD, ref_labels=bank.labels_P)
        means = [_mean_by_anchor(term, z_BD, positive_only=self.positive_only) for term in terms.values()]
        return torch.stack(means).sum(0)


def with_bank(loss: ProxyLoss, head: Head, x_NF: Rows, labels_N: Tensor) -> ProxyLoss:
    """The loss, ready for use: with a bank from these training samples where it needs one and has none.

    Args:
        loss: Any.
        head: At theta_0.
        x_NF: Features of the training samples.
        labels_N: Their class indices, as given.
    """
    if not isinstance(loss, PmlBankLoss) or loss.bank is not None or loss.settings.bank is None:
        return loss
    bank = make_bank(head, x_NF, labels_N, loss.settings.bank)
    return replace(loss, bank=bank.to(device=head.weight_DF.device, dtype=head.weight_DF.dtype))


def block_rows(shape: Shape, bank: Bank) -> int:
    """How many samples at a time keep the largest array of the library within its limit; at least 1."""
    P, D = bank.z_PD.shape
    K = max(1, bank.per_class)
    rows = {
        Shape.PAIRS: _BLOCK_ELEMENTS // P,
        Shape.PAIRS_BY_REPRESENTATIVE: _BLOCK_ELEMENTS // (K * P),
        Shape.PAIRS_BY_PAIR: math.isqrt(_PAIR_ELEMENTS // (K * P)),
        Shape.DIFFERENCES: _BLOCK_ELEMENTS // (P * D),
    }
    return max(1, rows[shape])


def _triplets(labels_B: Tensor, labels_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every anchor with every representative of its class and every one of another. The library would need B P P."""
    same_BP = labels_B[:, None] == labels_P
    anchor, positive = torch.where(same_BP)
    pair, negative = torch.where(~same_BP[anchor])
    return anchor[pair], positive[pair], negative


def _mean_by_anchor(term: dict[str, Any], z_BD: Tensor, *, positive_only: bool) -> Tensor:
    """A term of the library, as (B,); 0 for an anchor that has none of its kind."""
    losses, indices = term["losses"], term["indices"]
    if not isinstance(losses, Tensor):  # a plain 0: the batch has no pairs of this kind
        return z_BD.new_zeros(len(z_BD))
    losses = losses.flatten()  # some are (terms, 1)
    anchors = indices if term["reduction_type"] == "element" else indices[0]
    counts = (losses > 0) if positive_only else torch.ones_like(losses, dtype=torch.bool)
    total_B = z_BD.new_zeros(len(z_BD)).index_add(0, anchors, losses * counts)
    count_B = z_BD.new_zeros(len(z_BD)).index_add(0, anchors, counts.to(z_BD.dtype))
    return total_B / count_B.clamp_min(1)

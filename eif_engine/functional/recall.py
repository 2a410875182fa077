"""Recall@1: how often the nearest other sample has the same label."""

from __future__ import annotations

from torch import Tensor

from eif_engine.functional.neighbors import nearest_other


def recall_at_1(z_MD: Tensor, labels_M: Tensor) -> float:
    """Share of samples, in [0, 1], whose nearest other sample has their label; 0 for fewer than two samples."""
    if len(labels_M) < 2:
        return 0.0
    neighbor_M, _ = nearest_other(z_MD)
    return float((labels_M == labels_M[neighbor_M]).double().mean())

"""How the scorer cuts its work up, and what memory that takes. Cuts depend on the model alone, never on the budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eif_engine.config import InfluenceConfig, Metric
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.cosine import CosineLoss
from eif_engine.models.head import Head

_GROUP_ROWS = 128
"""Pair rows whose products with a tile are one matrix product."""
_TILE_ROWS = 256
_TILE_ELEMENTS = 1 << 20
"""Cosines of a tile, at most."""
_SLICE_ROWS = {"cpu": 128, "cuda": 65_536}
_SLICE_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 23}
"""Cosines of a slice of samples, at most, but for 16 samples."""
_WORK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 25}
"""Cosines that are worked on at a time, at several thetas: near the caches of a core; a GPU wants many."""
_TILE_ARRAYS = 8
"""Arrays of the size of a tile's cosines, embeddings and features that are alive at a time, at most."""
_FLOAT64 = 8


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a scoring.

    Attributes:
        embedding_dim: D.
        feature_dim: F.
        representatives: P, or the number of classes for losses that are not of cosines.
        num_thetas: T.
        random: How many of the thetas are random directions.
        kfac: Whether the metric needs the curvature.
        item: Bytes of a number.
        device: Type of the device.
    """

    embedding_dim: int
    feature_dim: int
    representatives: int
    num_thetas: int
    random: int
    kfac: bool
    item: int
    device: str

    @classmethod
    def of(cls, head: Head, loss: ProxyLoss, config: InfluenceConfig, *, dtype: torch.dtype) -> Sizes:
        """Sizes with this head and loss, already on the device where they will be used, in this precision."""
        D, F = head.weight_DF.shape
        return cls(
            embedding_dim=D,
            feature_dim=F,
            representatives=len(loss.representatives_PD) if isinstance(loss, CosineLoss) else loss.num_classes,
            num_thetas=config.num_thetas,
            random=max(0, config.num_thetas - 2),
            kfac=config.metric is Metric.KFAC,
            item=dtype.itemsize,
            device=head.weight_DF.device.type,
        )

    @property
    def slice_rows(self) -> int:
        """Samples whose losses are worked on at a time."""
        most = _SLICE_ELEMENTS[self.device] // self.representatives // 16 * 16
        return max(16, min(_SLICE_ROWS[self.device], most))

    @property
    def tile_rows(self) -> int:
        """Samples of a tile: slices of about `_TILE_ROWS` together."""
        most = min(_TILE_ROWS, _TILE_ELEMENTS // self.representatives)
        return max(1, most // self.slice_rows) * self.slice_rows

    @property
    def work_elements(self) -> int:
        """Cosines that are worked on at a time."""
        return _WORK_ELEMENTS[self.device]

    @property
    def threads(self) -> int:
        """Tiles that are worked on at a time."""
        return torch.get_num_threads() if self.device == "cpu" else 1

    def group_queries(self, rows: int) -> int:
        """Queries of so many pair rows that make a group."""
        return max(1, _GROUP_ROWS // rows)

    def queries_per_chunk(self, memory_bytes: int, *, samples: int, most_rows: int) -> int:
        """Queries that a budget holds; whole groups where it holds one.

        Raises:
            ValueError: Not even one.
        """
        needed = self.least_bytes(samples=samples, most_rows=most_rows)
        if memory_bytes < needed:
            raise ValueError(f"memory_bytes is {memory_bytes:,}, but one query takes {needed:,} to score")
        count = (memory_bytes - self._fixed()) // self._query(samples, most_rows)
        group = self.group_queries(most_rows)
        return count // group * group if count >= group else count

    def bytes_for(self, queries: int, *, samples: int, most_rows: int) -> int:
        """What it takes to score so many queries in one chunk."""
        return self._fixed() + queries * self._query(samples, most_rows)

    def base_bytes(self, samples: int) -> int:
        """What does not depend on the queries, for all samples: features, embeddings, cosines and what losses keep."""
        return (
            self.item * samples * (self.feature_dim + (2 + self.random) * self.embedding_dim + 3 * self.representatives)
        )

    def least_bytes(self, *, samples: int, most_rows: int) -> int:
        """What one query of so many pair rows takes."""
        return self.bytes_for(1, samples=samples, most_rows=most_rows)

    def _query(self, samples: int, rows: int) -> int:
        """Its scores, its thetas in the precision of the scores, and what their making takes in float64."""
        D, F, T = self.embedding_dim, self.feature_dim, self.num_thetas
        spanned = rows * (F + T * (D + (self.representatives if rows <= D else 0)))
        making = 2 * rows * (F + (2 + T) * D + rows)
        return self.item * (samples + spanned) + _FLOAT64 * making

    def _fixed(self) -> int:
        """The tiles at work, random directions and the curvature."""
        D, F = self.embedding_dim, self.feature_dim
        tile = _TILE_ARRAYS * self.tile_rows * (self.representatives + (1 + self.random) * D + F + _GROUP_ROWS)
        metric = _FLOAT64 * 3 * (F * F + D * D) if self.kfac else 0
        return self.threads * self.item * (tile + 3 * self.work_elements) + 2 * _FLOAT64 * self.random * D * F + metric

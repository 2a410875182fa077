"""What an index of nearest neighbours is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.embedding.vectors import Float32


@dataclass(frozen=True, kw_only=True)
class Neighbors:
    """The answer to one query, nearest first; equal distances in order of the sample ids.

    Attributes:
        distances: (k,) squared Euclidean distances between L2-normalised vectors, in [0, 4].
    """

    sample_ids: tuple[str, ...]
    labels: tuple[str, ...]
    distances: Float32


class KnnIndex(Protocol):
    """Labelled unit vectors by sample id, and the nearest of them. Immutable; every method is thread-safe.

    Constraints on every implementation: distances are those of exact arithmetic rounded to float32, so equal vectors
    are at distance 0; the order is total (distance, then sample id), also where ties reach past the k-th neighbour.
    """

    @property
    def dim(self) -> int:
        """Size of a vector."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that the vectors take, in bytes."""
        ...

    def __len__(self) -> int: ...

    def vector(self, sample_id: str) -> Float32:
        """The (dim,) vector of an entry. Raises SampleUnknown."""
        ...

    def search(self, vectors_QD: Float32, *, k: int, exclude: Sequence[str | None] | None = None) -> list[Neighbors]:
        """The `k` nearest entries to each query, or all there are when there are fewer.

        Args:
            vectors_QD: L2-normalised queries.
            k: Neighbours of each query, at least 1.
            exclude: For each query the sample id that is not to be among its neighbours, or None.
        """
        ...

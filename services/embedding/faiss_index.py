"""Exact nearest neighbours: faiss finds the candidates, float64 arithmetic puts them in their exact order.

faiss computes in float32, where equal vectors may end up at 5e-7 and ties fall as they may. Its error has a bound, so
every entry that could be among the k nearest can be told from those that cannot:

    a_i  approximate distance of entry i, |a_i - d_i| <= eps
    t    k-th smallest a_i; the k-th smallest d_i is then at most t + eps
    so every entry of the answer has a_i <= t + 2 eps.

Legend: N entries, Q queries, D dimensions, M candidates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from eif_engine.errors import SampleUnknown
from services.embedding.knn import Neighbors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from services.embedding.vectors import Float32

MARGIN = 32
"""Candidates asked for beyond k. With fewer than this many near-ties at the k-th neighbour, one pass is enough."""
RESCORE_ROWS = 4096
"""Candidates put in float64 at a time; bounds the memory of a search among many near-duplicates."""
BLAS_FROM_QUERIES = 4
"""From so many queries on faiss multiplies matrices instead of scanning. Its default (20) is 2-5 times slower here."""


class FaissIndex:
    """A KnnIndex over faiss.IndexFlatL2.

    Args:
        sample_ids: Unique.
        labels: One for each sample.
        vectors_ND: L2-normalised, finite.
        threads: Threads of one search.
    """

    def __init__(
        self, *, sample_ids: Sequence[str], labels: Sequence[str], vectors_ND: Float32, threads: int = 1
    ) -> None:
        if not len(sample_ids) == len(labels) == len(vectors_ND):
            raise ValueError(f"{len(sample_ids)} ids, {len(labels)} labels and {len(vectors_ND)} vectors do not match")
        self._ids = tuple(sample_ids)
        self._labels = tuple(labels)
        self._row = {sample_id: row for row, sample_id in enumerate(self._ids)}
        if len(self._row) != len(self._ids):
            raise ValueError("sample ids are not unique")
        self._place_N = _places(self._ids)
        self._threads = threads
        self._dim = int(vectors_ND.shape[1])
        self._eps = float32_error(self._dim)
        faiss.cvar.distance_compute_blas_threshold = BLAS_FROM_QUERIES
        self._flat = faiss.IndexFlatL2(self._dim)
        self._flat.add(np.ascontiguousarray(vectors_ND, dtype=np.float32))
        self._vectors_ND = _view(self._flat)

    @property
    def dim(self) -> int:
        return self._dim

    @property
    def nbytes(self) -> int:
        return int(self._vectors_ND.nbytes)

    def __len__(self) -> int:
        return len(self._ids)

    def vector(self, sample_id: str) -> Float32:
        row = self._row.get(sample_id)
        if row is None:
            raise SampleUnknown(f"the index has no sample {sample_id!r}", sample_id=sample_id)
        vector_D: Float32 = self._vectors_ND[row].copy()
        return vector_D

    def search(self, vectors_QD: Float32, *, k: int, exclude: Sequence[str | None] | None = None) -> list[Neighbors]:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        excluded = exclude if exclude is not None else [None] * len(vectors_QD)
        own_rows = [None if sample_id is None else self._row.get(sample_id) for sample_id in excluded]
        candidates = self._candidates(vectors_QD, k=min(k + 1, len(self)))
        return [
            self._nearest(query_D, rows_M, k=k, own_row=own_row)
            for query_D, rows_M, own_row in zip(vectors_QD, candidates, own_rows, strict=True)
        ]

    def _candidates(self, vectors_QD: Float32, *, k: int) -> list[NDArray[np.int64]]:
        """For each query, rows that hold its `k` nearest for certain."""
        if k == 0:
            return [np.empty(0, dtype=np.int64)] * len(vectors_QD)
        queries_QD = np.ascontiguousarray(vectors_QD, dtype=np.float32)
        asked = min(k + MARGIN, len(self))
        faiss.omp_set_num_threads(self._threads)  # OpenMP keeps this number by calling thread
        approx_QM, rows_QM = self._flat.search(queries_QD, asked)
        reach_Q = approx_QM[:, k - 1].astype(np.float64) + 2 * self._eps
        complete_Q = (approx_QM[:, -1] > reach_Q) | (asked == len(self))
        return [
            rows_M if complete else self._within(query_D, reach)
            for query_D, rows_M, reach, complete in zip(queries_QD, rows_QM, reach_Q, complete_Q, strict=True)
        ]

    def _within(self, query_D: Float32, reach: float) -> NDArray[np.int64]:
        """Rows up to an approximate distance: the second pass for a query with many near-ties at its k-th neighbour."""
        radius = float(np.nextafter(np.float32(reach), np.float32(np.inf)))  # faiss leaves out what is at the radius
        _limits, _approx, rows_M = self._flat.range_search(query_D[None], radius)
        return np.asarray(rows_M, dtype=np.int64)

    def _nearest(self, query_D: Float32, rows_M: NDArray[np.int64], *, k: int, own_row: int | None) -> Neighbors:
        rows_M = rows_M if own_row is None else rows_M[rows_M != own_row]
        distances_M = exact_distances(query_D, self._vectors_ND, rows_M)
        order_K = np.lexsort((self._place_N[rows_M], distances_M))[:k]
        rows = rows_M[order_K].tolist()
        return Neighbors(
            sample_ids=tuple(self._ids[row] for row in rows),
            labels=tuple(self._labels[row] for row in rows),
            distances=distances_M[order_K],
        )


def float32_error(dim: int) -> float:
    """Bound on the error of a squared distance of unit vectors in float32, by any order of summation.

    |x|^2 + |y|^2 - 2 x.y adds up `dim` products of total size 4, each rounded `dim` times at most, by 2^-24 each; a few
    more for the sums and for unit vectors that are themselves rounded.
    """
    return 4.0 * (dim + 16) * 2.0**-24


def exact_distances(query_D: Float32, vectors_ND: Float32, rows_M: NDArray[np.int64]) -> Float32:
    """Squared distances to the given rows, by differences in float64, rounded to float32 and kept in [0, 4]."""
    wide_D = query_D.astype(np.float64)
    distances_M = np.empty(len(rows_M), dtype=np.float64)
    for start in range(0, len(rows_M), RESCORE_ROWS):
        part = slice(start, start + RESCORE_ROWS)
        distances_M[part] = np.square(vectors_ND[rows_M[part]].astype(np.float64) - wide_D).sum(axis=1)
    return np.clip(distances_M, 0.0, 4.0).astype(np.float32)


def _places(ids: tuple[str, ...]) -> NDArray[np.int64]:
    """Place of each row in the order of the ids, so that ties are broken by comparing integers."""
    place_N = np.empty(len(ids), dtype=np.int64)
    place_N[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return place_N


def _view(flat: Any) -> Float32:  # noqa: ANN401 - faiss has no types
    """The vectors as faiss holds them, not copied; valid while `flat` lives."""
    if flat.ntotal == 0:
        return np.empty((0, flat.d), dtype=np.float32)
    return np.asarray(faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)).reshape(flat.ntotal, flat.d)

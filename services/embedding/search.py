"""Searches: queries of three kinds become vectors, and the index finds their neighbours."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from eif_engine.errors import SampleUnknown
from services.common.names import invalid
from services.embedding.images import ImageSource, at_field
from services.embedding.vectors import has_direction, normalize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from eif_engine.config import NeighborSpace
    from services.embedding.admission import Admission
    from services.embedding.embedder import Embedder
    from services.embedding.indexes import Indexes
    from services.embedding.knn import KnnIndex, Neighbors
    from services.embedding.metrics import EmbeddingMetrics
    from services.embedding.vectors import Float32


@dataclass(frozen=True, kw_only=True)
class VectorQuery:
    """A vector of the index's space, as the caller gave it; `field` is its place in the request."""

    field: str
    values: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class SampleQuery:
    """An entry of the index, which is not among its own neighbours."""

    field: str
    sample_id: str


Query = VectorQuery | SampleQuery | ImageSource


class Searcher:
    """Answers SearchNeighbors.

    Args:
        indexes: To search in.
        embedder: For queries by image.
        admission: Of queries.
        executor: Threads that search.
        metrics: Takes the time of each search.
    """

    def __init__(
        self,
        indexes: Indexes,
        embedder: Embedder,
        admission: Admission,
        executor: Executor,
        metrics: EmbeddingMetrics,
    ) -> None:
        self._indexes, self._embedder, self._admission, self._executor = indexes, embedder, admission, executor
        self._metrics = metrics

    async def search(self, name: str, queries: Sequence[Query], *, k: int) -> list[Neighbors]:
        """One answer for each query, in order.

        Raises:
            EifError: Of the first query that is wrong, naming it; INDEX_NOT_FOUND, INDEX_NOT_READY, QUEUE_FULL.
        """
        with self._admission.hold(items=len(queries)):
            return await self._search(name, queries, k)

    async def _search(self, name: str, queries: Sequence[Query], k: int) -> list[Neighbors]:
        spec = self._indexes.board.get(name).spec
        index = await self._indexes.open(name)
        vectors = [None if isinstance(query, ImageSource) else vector_of(query, index) for query in queries]
        images = [query for query in queries if isinstance(query, ImageSource)]
        embedded = iter(await self._embed(spec.model, images, spec.space))
        vectors_QD = np.stack([next(embedded) if vector is None else vector for vector in vectors])
        exclude = [query.sample_id if isinstance(query, SampleQuery) else None for query in queries]
        loop = asyncio.get_running_loop()

        def search() -> list[Neighbors]:
            with self._metrics.searching():
                return index.search(vectors_QD, k=k, exclude=exclude)

        return await loop.run_in_executor(self._executor, search)

    async def _embed(self, model: str, images: Sequence[ImageSource], space: NeighborSpace) -> list[Float32]:
        return list(await self._embedder.embed(model, images, space)) if images else []


def vector_of(query: VectorQuery | SampleQuery, index: KnnIndex) -> Float32:
    """The unit vector of a query.

    Raises:
        ServiceError: ARGUMENT_INVALID for a vector of the wrong size, or without direction.
        SampleUnknown: The index has no such sample.
    """
    if isinstance(query, SampleQuery):
        try:
            return index.vector(query.sample_id)
        except SampleUnknown as error:
            raise at_field(error, f"{query.field}.sample_id") from None
    field = f"{query.field}.vector"
    if len(query.values) != index.dim:
        raise invalid(field, f"it has {len(query.values)} values, but vectors of this index have {index.dim}")
    values_D = np.asarray(query.values, dtype=np.float32)
    if not np.isfinite(values_D).all():
        raise invalid(field, "it has values that are not finite")
    if not has_direction(values_D[None])[0]:
        raise invalid(field, "all its values are 0, so it has no direction")
    vector_D: Float32 = normalize(values_D[None])[0]
    return vector_D

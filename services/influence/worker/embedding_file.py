"""Embeddings that the caller brings: a Parquet file with the columns `id` and `embedding`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from eif_engine.errors import InvalidInput
from eif_engine.types import Quarantined
from services.influence.spec import Artifact
from services.influence.worker.features import SplitFeatures
from services.influence.worker.job import Job
from services.influence.worker.mapped_file import mapped_file
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.split import Split

MAX_DIM = 65_536
MAX_FILE_BYTES = 64 << 30
BATCH_ROWS = 4096
_COLUMNS = ("id", "embedding")


def fetch_embeddings(job: Job, artifact: Artifact, split: Split, quarantine: Quarantine) -> SplitFeatures:
    """The embeddings of a split; a sample that has none goes to quarantine, an id that no sample has is passed over.

    Raises:
        EifError: ARGUMENT_INVALID for another schema, values that are not finite, lists of different lengths or an id
            that comes twice; OBJECT_NOT_FOUND, OBJECT_DIGEST_MISMATCH; TOO_MANY_QUARANTINED.
    """
    path = job.scratch / f"{split.name}-embeddings.parquet"
    job.store.download(artifact.uri, path, max_bytes=MAX_FILE_BYTES, sha256=artifact.sha256)
    file = _opened(path, artifact.uri)
    found = _Found(job, split, artifact.uri)
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(_COLUMNS)):
        job.cancellation.check()
        found.add(batch)
    return found.features(quarantine)


def _opened(path: Path, uri: str) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"{uri} is no Parquet file: {str(error)[:200]}", uri=uri) from error
    schema = file.schema_arrow
    for name in _COLUMNS:
        if name not in schema.names:
            known = ", ".join(schema.names[:20])
            raise InvalidInput(f"{uri} has no column {name}; embeddings need id and embedding, it has {known}", uri=uri)
    kind = schema.field("embedding").type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not pa.types.is_floating(kind.value_type):
        raise InvalidInput(f"{uri}: the column embedding holds {kind}, but lists of floats are needed", uri=uri)
    return file


class _Found:
    """Embeddings as they are read, at the rows of their samples."""

    def __init__(self, job: Job, split: Split, uri: str) -> None:
        self._job, self._split, self._uri = job, split, uri
        self._row_of = {sample_id: row for row, sample_id in enumerate(split.sample_ids)}
        self._done_N = np.zeros(len(split), dtype=np.bool_)
        self._x_NF: NDArray[np.float32] | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the rows of a batch that belong to samples."""
        rows, places = self._places(batch.column("id").to_pylist())
        if not rows:
            return
        values_BD = self._values(batch.column("embedding").take(pa.array(places)), rows)
        if self._x_NF is None:
            shape = (len(self._split), values_BD.shape[1])
            self._x_NF = mapped_file(self._job.scratch / f"{self._split.name}.f32", np.float32, shape)
        if values_BD.shape[1] != self._x_NF.shape[1]:
            what = f"{self._uri} has embeddings of {self._x_NF.shape[1]} and of {values_BD.shape[1]} numbers"
            raise InvalidInput(what, uri=self._uri)
        self._x_NF[rows] = values_BD

    def _places(self, ids: Sequence[object]) -> tuple[list[int], list[int]]:
        """Rows of the split that are in a batch, and their places in it."""
        rows, places = [], []
        for place, sample_id in enumerate(map(str, ids)):
            row = self._row_of.get(sample_id)
            if row is None:
                continue
            if self._done_N[row]:
                what = f"{self._uri} has two embeddings for sample {sample_id!r}"
                raise InvalidInput(what, uri=self._uri, sample_id=sample_id)
            self._done_N[row] = True
            rows.append(row)
            places.append(place)
        return rows, places

    def features(self, quarantine: Quarantine) -> SplitFeatures:
        """What was found. Raises TOO_MANY_QUARANTINED."""
        for row in np.flatnonzero(~self._done_N).tolist():
            sample = self._split.sample(row)
            missing = Quarantined(
                sample_id=sample.sample_id,
                uri=sample.uri,
                reason="SAMPLE_UNKNOWN",
                message=f"{self._uri} has no embedding for it",
            )
            quarantine.add(self._split.name, missing, total=len(self._split))
        kept = np.flatnonzero(self._done_N)
        x_NF = np.zeros((0, 1), dtype=np.float32) if self._x_NF is None else self._x_NF[kept]
        return SplitFeatures(
            rows=kept,
            sample_ids=[self._split.sample_ids[row] for row in kept.tolist()],
            labels=[self._split.labels[row] for row in kept.tolist()],
            x_NF=x_NF,
            digest_NB=self._split.digests()[kept],
            hits=0,
            misses=0,
        )

    def _values(self, column: pa.Array[Any], rows: Sequence[int]) -> NDArray[np.float32]:
        lengths = set(pc.list_value_length(column).to_pylist())
        dim = lengths.pop() if len(lengths) == 1 else None
        if dim is None or not 0 < dim <= MAX_DIM:
            raise InvalidInput(
                f"{self._uri}: embeddings must all have the same number of values, 1 to {MAX_DIM:,}", uri=self._uri
            )
        flat = pc.list_flatten(column).to_numpy(zero_copy_only=False)
        values: NDArray[np.float32] = np.asarray(flat, dtype=np.float32).reshape(-1, dim)
        broken = ~np.isfinite(values).all(axis=1)
        if broken.any():
            sample_id = self._split.sample_ids[rows[int(broken.argmax())]]
            what = f"{self._uri}: the embedding of sample {sample_id!r} has NaN or infinite values"
            raise InvalidInput(what, uri=self._uri, sample_id=sample_id)
        return values

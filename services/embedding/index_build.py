"""Builds an index from a manifest: read, decode, embed and write, each step a batch ahead of the next.

Runs in a thread of its own, one batch in memory per step. What cannot be read is set aside, and the build fails when
that becomes too much.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eif_engine import __version__
from eif_engine.data.manifest import FORMATS, read_manifest
from eif_engine.errors import ImageInvalid
from eif_engine.types import Quarantined, Sample
from services.common.samples import SampleLimits, read_samples
from services.embedding.build_progress import (
    BuildCancelled,
    BuildLimits,
    BuildProgress,
    BuiltIndex,
    check_memory,
    check_quarantine,
)
from services.embedding.images import prepare
from services.embedding.pipelining import ahead, chunks
from services.embedding.stored_index import IndexManifest, store_index, vectors_entry
from services.embedding.stored_vectors import VectorsWriter
from services.embedding.vectors import has_direction

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from services.common.storage.base import ObjectStore
    from services.embedding.encoder import Encoder
    from services.embedding.records import IndexRecord
    from services.embedding.vectors import Float32

MAX_MANIFEST_BYTES = 4 << 30


class IndexBuild:
    """One build.

    Args:
        record: What to build.
        encoder: The model.
        model_sha256: Of its onnx.json.
        store: Of the manifest, the images and the result.
        target: URI of the folder of the result.
        scratch: A folder of this build's own.
        limits: What it may take.
        report: Called after each batch, in the thread of the build.
        stop: Set from outside to stop it.
    """

    def __init__(
        self,
        record: IndexRecord,
        *,
        encoder: Encoder,
        model_sha256: str,
        store: ObjectStore,
        target: str,
        scratch: Path,
        limits: BuildLimits,
        report: Callable[[BuildProgress], None],
        stop: threading.Event,
    ) -> None:
        self._spec, self._uid = record.spec, record.uid
        self._encoder, self._model_sha256, self._store = encoder, model_sha256, store
        self._target, self._scratch, self._limits = target, scratch, limits
        self._report, self._stop = report, stop
        self._dim = encoder.dim(self._spec.space)
        self._progress = BuildProgress(dim=self._dim)

    def run(self) -> BuiltIndex:
        """Build and store.

        Raises:
            EifError: Why there is no index.
            BuildCancelled: It was told to stop.
        """
        manifest = self._scratch / f"manifest{_suffix(self._spec.manifest_uri)}"
        digest = self._store.download(
            self._spec.manifest_uri, manifest, max_bytes=MAX_MANIFEST_BYTES, sha256=self._spec.manifest_sha256
        )
        self._count(manifest)
        vectors = self._scratch / "vectors.parquet"
        rows = self._embed(manifest, vectors)
        self._check_cancelled()
        description = self._describe(vectors, digest, rows)
        return BuiltIndex(
            manifest=description,
            sha256=store_index(self._store, self._target, vectors, description),
            vectors=vectors,
        )

    def _count(self, manifest: Path) -> None:
        """Read the manifest to its end before anything is embedded: a fault in it is told at once."""
        for _ in read_manifest(manifest, uri=self._spec.manifest_uri):
            self._progress.total += 1
            if self._progress.total % 10_000 == 0:
                self._check_cancelled()
        check_memory(self._progress.total, self._dim, self._limits)
        self._report(self._progress)

    def _embed(self, manifest: Path, vectors: Path) -> int:
        rows = 0
        with (
            VectorsWriter(vectors, dim=self._dim) as writer,
            ThreadPoolExecutor(self._limits.image_threads, thread_name_prefix="build") as pool,
            closing(self._read(manifest)) as images,
        ):
            try:
                for batch in self._pipeline(images, pool):
                    rows += self._write(batch, writer)
                    self._report(self._progress)
                    check_quarantine(self._spec, self._progress)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        return rows

    def _read(self, manifest: Path) -> Generator[tuple[Sample, bytes | Quarantined], None, None]:
        yield from read_samples(
            self._store,
            read_manifest(manifest, uri=self._spec.manifest_uri),
            limits=SampleLimits(max_sample_bytes=self._limits.images.max_bytes),
            workers=self._limits.image_threads,
            scratch=self._scratch,
        )

    def _pipeline(self, images: Iterable[tuple[Sample, bytes | Quarantined]], pool: Executor) -> Iterator[_Batch]:
        prepared = ahead(self._prepare(part, pool) for part in chunks(images, self._limits.batch))
        return ahead(self._encode(part) for part in prepared)

    def _prepare(self, part: list[tuple[Sample, bytes | Quarantined]], pool: Executor) -> list[_Preparing]:
        self._check_cancelled()
        return [
            (sample, data if isinstance(data, Quarantined) else pool.submit(self._prepare_one, sample, data))
            for sample, data in part
        ]

    def _prepare_one(self, sample: Sample, data: bytes) -> Float32 | Quarantined:
        try:
            return prepare(data, self._encoder.bundle.preprocessing, limits=self._limits.images, uri=sample.uri)
        except ImageInvalid as error:
            return _quarantined(sample, error.reason, error.message)

    def _encode(self, part: list[_Preparing]) -> _Batch:
        self._check_cancelled()
        outcomes = [(sample, one.result() if isinstance(one, Future) else one) for sample, one in part]
        images = [image for _, image in outcomes if not isinstance(image, Quarantined)]
        vectors = self._encoder.submit(images, self._spec.space) if images else None
        faults = {sample.sample_id: fault for sample, fault in outcomes if isinstance(fault, Quarantined)}
        return _Batch(samples=[sample for sample, _ in outcomes], faults=faults, vectors=vectors)

    def _write(self, batch: _Batch, writer: VectorsWriter) -> int:
        readable = [sample for sample in batch.samples if sample.sample_id not in batch.faults]
        if batch.vectors is not None:
            vectors_ND = batch.vectors.result()
            sound_N = has_direction(vectors_ND)
            for sample in _where(readable, ~sound_N):
                why = f"{sample.uri}: {self._spec.model} gives a vector that is zero or not finite"
                batch.faults[sample.sample_id] = _quarantined(sample, "ONNX_INVALID", why)
            kept = _where(readable, sound_N)
            writer.append([one.sample_id for one in kept], [one.label for one in kept], vectors_ND[sound_N])
        for sample in batch.samples:
            if (fault := batch.faults.get(sample.sample_id)) is not None:
                self._progress.set_aside(fault)
        rows = len(batch.samples) - len(batch.faults)
        self._progress.done += rows
        return rows

    def _describe(self, vectors: Path, manifest_sha256: str, rows: int) -> IndexManifest:
        return IndexManifest(
            name=self._spec.name,
            uid=self._uid,
            model=self._spec.model,
            model_sha256=self._model_sha256,
            weights_sha256=self._encoder.bundle.weights_sha256,
            manifest_uri=self._spec.manifest_uri,
            manifest_sha256=manifest_sha256,
            space=self._spec.space,
            dim=self._dim,
            samples_total=self._progress.total,
            samples_quarantined=self._progress.quarantined,
            quarantined=tuple(self._progress.listed),
            vectors=vectors_entry(vectors, rows),
            execution_provider=self._encoder.provider,
            software_version=__version__,
        )

    def _check_cancelled(self) -> None:
        if self._stop.is_set():
            raise BuildCancelled


_Preparing = tuple[Sample, "Future[Float32 | Quarantined] | Quarantined"]


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Samples in order; the vectors of those without a fault, in the same order, as they come."""

    samples: list[Sample]
    faults: dict[str, Quarantined]
    vectors: Future[Float32] | None


def _where(samples: Sequence[Sample], mask_N: Iterable[object]) -> list[Sample]:
    return [sample for sample, chosen in zip(samples, mask_N, strict=True) if chosen]


def _quarantined(sample: Sample, reason: str, message: str) -> Quarantined:
    return Quarantined(sample_id=sample.sample_id, uri=sample.uri, reason=reason, message=message)


def _suffix(uri: str) -> str:
    return next((suffix for suffix in reversed(FORMATS) if uri.lower().endswith(suffix)), "")

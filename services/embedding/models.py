"""The models of this server: created from the object store, kept on disk, loaded, and given out to embed with."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import shutil
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from eif_engine.errors import EifError
from services.common.errors import ServiceError
from services.embedding.bundles import fetch_bundle, is_intact
from services.embedding.disk import disk_errors
from services.embedding.encoder import Encoder
from services.embedding.metrics import EmbeddingMetrics
from services.embedding.names import MODELS
from services.embedding.onnx_check import ProbeLimits, check_onnx
from services.embedding.records import ModelRecord, ModelSpec, Record
from services.embedding.registry import Database, Registry
from services.embedding.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from services.common.storage.base import ObjectStore
    from services.embedding.names import Name

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelLimits:
    """What models may take.

    Attributes:
        max_models: Loaded at a time.
        max_bytes: Of the files of one.
        threads: Of one model while it computes.
        probe: Of its first load.
    """

    max_models: int = 16
    max_bytes: int = 4 << 30
    threads: int = 1
    probe: ProbeLimits = field(default_factory=ProbeLimits)


class Models:
    """Models by name. Used from one event loop; files and sessions are handled in threads.

    Args:
        database: Where they are kept.
        store: Where their bundles lie.
        folder: Of this server alone; a folder for each model.
        provider: Execution provider of ONNX Runtime.
        limits: What they may take.
        check: Raises OnnxInvalid for a bundle that is not fit for use.
        metrics: Takes the times of their batches.
    """

    def __init__(
        self,
        database: Database,
        store: ObjectStore,
        folder: Path,
        *,
        provider: str,
        limits: ModelLimits,
        check: Callable[[Path, ProbeLimits], Awaitable[None]] = check_onnx,
        metrics: EmbeddingMetrics | None = None,
    ) -> None:
        self._registry = Registry(database, collection=MODELS, kind=ModelRecord, noun="MODEL")
        self._store, self._folder, self._provider, self._limits = store, folder, provider, limits
        self._check = check
        self._metrics = metrics or EmbeddingMetrics()
        self._records: dict[str, ModelRecord] = {}
        self._encoders: dict[str, asyncio.Task[Encoder]] = {}
        self._creating: dict[str, asyncio.Task[ModelRecord]] = {}
        self._one_load = asyncio.Lock()  # loading takes much memory for a moment
        self._tasks = Tasks()

    def start(self) -> None:
        """Bring back the models of an earlier run; they load in the background, or when they are first needed."""
        self._records = {record.name: record for record in self._registry.all()}
        kept = {record.uid for record in self._records.values()}
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in self._folder.iterdir():
            if folder.name not in kept:  # of a creation that was cut short
                shutil.rmtree(folder)
        for record in self._records.values():
            self._start_loading(record)

    async def close(self) -> None:
        """Stop loading and let go of every model."""
        await self._tasks.cancel()
        for task in self._encoders.values():
            if not task.cancelled() and task.exception() is None:
                task.result().close()

    async def create(self, spec: ModelSpec, name: Name, *, request_id: str | None) -> ModelRecord:
        """Load a model and keep it; goes on when the caller is cancelled, so that a retry finds it.

        Raises:
            EifError: Why it cannot be; then nothing of it is left.
        """
        while (running := self._creating.get(spec.name)) is not None:
            await asyncio.wait({running})
        creating = self._tasks.start(self._create(spec, name, request_id))
        self._creating[spec.name] = creating
        return await asyncio.shield(creating)

    def get(self, name: str) -> ModelRecord:
        """A model. Raises MODEL_NOT_FOUND."""
        record = self._records.get(name)
        if record is None:
            raise ServiceError("MODEL_NOT_FOUND", f"there is no model {name}", name=name)
        return record

    def names(self, parent: str) -> list[str]:
        """Names of the models of a project, in order."""
        return sorted(name for name in self._records if name.startswith(f"{parent}/"))

    def provider(self, name: str) -> str:
        """The execution provider that a model runs on."""
        task = self._encoders.get(name)
        if task is not None and task.done() and not task.cancelled() and task.exception() is None:
            return task.result().provider
        return self._provider

    async def encoder(self, name: str) -> Encoder:
        """The loaded model; waits while it loads.

        Raises:
            EifError: MODEL_NOT_FOUND, or why it cannot be loaded (any more).
        """
        record = self.get(name)
        task = self._encoders.get(name)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._start_loading(record)
        return await asyncio.shield(task)

    async def delete(self, name: str) -> None:
        """Unload and forget a model. Raises MODEL_NOT_FOUND, MODEL_IN_USE."""
        await self._tasks.finish(self._delete(self.get(name)))

    async def _create(self, spec: ModelSpec, name: Name, request_id: str | None) -> ModelRecord:
        digest = spec_digest(spec)
        try:
            earlier = await asyncio.to_thread(
                self._registry.existing, spec.name, name.parent, request_id=request_id, digest=digest
            )
            return earlier or await self._create_new(spec, name, request_id, digest)
        finally:
            del self._creating[spec.name]

    async def _create_new(self, spec: ModelSpec, name: Name, request_id: str | None, digest: str) -> ModelRecord:
        self._check_room()
        uid = str(uuid.uuid4())
        try:
            with disk_errors():
                record, encoder = await self._load_new(spec, uid)
            await asyncio.to_thread(
                self._registry.add, record, spec.name, name.parent, request_id=request_id, digest=digest
            )
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, self._folder / uid, ignore_errors=True)
            raise
        self._records[spec.name] = record
        self._encoders[spec.name] = self._tasks.start(_value(encoder))
        logger.info("model created", extra={"fields": {"model": spec.name, "provider": encoder.provider}})
        return record

    def _check_room(self) -> None:
        limit = self._limits.max_models
        if len(self._records) + len(self._creating) > limit:
            raise ServiceError(
                "RESOURCE_PROBLEM",
                f"this server has {len(self._records)} models and its limit is {limit}: delete one first",
                limit=limit,
            )

    async def _load_new(self, spec: ModelSpec, uid: str) -> tuple[ModelRecord, Encoder]:
        folder = self._folder / uid
        async with self._one_load:
            sha256 = await asyncio.to_thread(
                fetch_bundle, self._store, spec.uri, folder, sha256=spec.sha256, max_bytes=self._limits.max_bytes
            )
            await self._check(folder, self._limits.probe)
            encoder = await asyncio.to_thread(self._open, folder, spec.name)
        record = ModelRecord(
            uid=uid,
            spec=spec,
            sha256=sha256,
            embedding_dim=encoder.bundle.embedding_dim,
            feature_dim=encoder.bundle.feature_dim,
            weights_sha256=encoder.bundle.weights_sha256,
            create_time=datetime.now(UTC),
        )
        return record, encoder

    def _start_loading(self, record: ModelRecord) -> asyncio.Task[Encoder]:
        task = self._tasks.start(self._load_again(record))
        self._encoders[record.name] = task
        return task

    async def _load_again(self, record: ModelRecord) -> Encoder:
        """Load a model that was checked when it was created; its files are fetched again when they have changed."""
        folder = self._folder / record.uid
        try:
            async with self._one_load:
                if not await asyncio.to_thread(is_intact, folder, record.sha256):
                    await asyncio.to_thread(self._fetch_again, record, folder)
                return await asyncio.to_thread(self._open, folder, record.name)
        except EifError as error:
            logger.warning("%s cannot be loaded: %s", record.name, error.message)
            raise

    def _fetch_again(self, record: ModelRecord, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        fetch_bundle(self._store, record.spec.uri, folder, sha256=record.sha256, max_bytes=self._limits.max_bytes)

    def _open(self, folder: Path, name: str) -> Encoder:
        return Encoder.load(
            folder, name=name, provider=self._provider, threads=self._limits.threads, metrics=self._metrics
        )

    async def _delete(self, record: ModelRecord) -> None:
        await asyncio.to_thread(self._registry.remove, record.name)
        self._records.pop(record.name, None)
        loading = self._encoders.pop(record.name, None)
        if loading is not None:
            await asyncio.wait({loading})
            if not loading.cancelled() and loading.exception() is None:
                loading.result().close()
        await asyncio.to_thread(shutil.rmtree, self._folder / record.uid, ignore_errors=True)


def spec_digest(spec: Record) -> str:
    """Of what a caller asked for, to tell a retry from another request."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()


async def _value(encoder: Encoder) -> Encoder:
    return encoder

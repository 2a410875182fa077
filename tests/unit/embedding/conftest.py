"""A service without its gRPC, in the event loop of the test."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from services.common.storage.base import ObjectStore
from services.embedding.build_progress import BuildLimits
from services.embedding.builds import BuildsLimits
from services.embedding.indexes import Indexes
from services.embedding.models import ModelLimits, Models
from services.embedding.names import INDEXES, MODELS, Name
from services.embedding.onnx_probe import check
from services.embedding.records import IndexRecord, IndexSpec, ModelRecord, ModelSpec
from services.embedding.registry import Database
from services.embedding.session import CPU
from tests.onnx_bundles import png, write_bundle
from tests.stores import local_place

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from services.embedding.onnx_check import ProbeLimits
    from tests.stores import Place

MODEL = Name(project="p", collection=MODELS, id="m")
INDEX = Name(project="p", collection=INDEXES, id="i")


async def check_here(folder: Path, limits: ProbeLimits) -> None:
    """The same check as the child process makes, but in this one: fast."""
    check(folder, batch=limits.batch)


@dataclass
class World:
    """A store with a bundle and images, and a folder for the state of a service."""

    place: Place
    folder: Path

    @asynccontextmanager
    async def service(self, *, store: ObjectStore | None = None, **limits: object) -> AsyncIterator[Service]:
        """A service over the store, started; closed as on SIGTERM at the end."""
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        database = Database(state / "registry.sqlite")
        store = store or self.place.store
        models = Models(
            database,
            store,
            state / "models",
            provider=CPU,
            limits=ModelLimits(max_models=2),
            check=check_here,
        )
        indexes = Indexes(
            database,
            models,
            store,
            prefix=self.place.uri("indexes"),
            scratch=state / "scratch",
            stopping=asyncio.Event(),
            limits=BuildsLimits(
                **{"storage_pause_seconds": 0.01, "build": BuildLimits(batch=8), **limits}  # type: ignore[arg-type]  # any field
            ),
            max_loaded_bytes=1 << 20,
        )
        models.start()
        indexes.start()
        try:
            yield Service(models, indexes)
        finally:
            await indexes.close()
            await models.close()
            database.close()

    def images(self, count: int, *, start: int = 0) -> list[dict[str, str]]:
        """Rows of a manifest, with their images in the store."""
        rows = []
        for seed in range(start, start + count):
            uri = self.place.uri(f"images/{seed}.png")
            self.place.store.put(uri, png(seed))
            rows.append({"id": f"s{seed:03d}", "uri": uri, "label": f"l{seed % 3}"})
        return rows

    def manifest(self, rows: Sequence[dict[str, str]], name: str = "manifest.jsonl") -> str:
        """A manifest in the store."""
        uri = self.place.uri(name)
        self.place.store.put(uri, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        return uri


@dataclass
class Service:
    """The two collections."""

    models: Models
    indexes: Indexes

    async def create_model(self, uri: str, name: Name = MODEL, *, request_id: str | None = None) -> ModelRecord:
        return await self.models.create(ModelSpec(name=str(name), uri=uri), name, request_id=request_id)

    async def create_index(
        self, manifest_uri: str, name: Name = INDEX, *, request_id: str | None = None, **fields: object
    ) -> IndexRecord:
        values = {"name": str(name), "model": str(MODEL), "manifest_uri": manifest_uri, **fields}
        return await self.indexes.create(IndexSpec.model_validate(values), name, request_id=request_id)

    async def ended(self, name: Name = INDEX) -> IndexRecord:
        """The index when it is READY or FAILED."""
        changes = self.indexes.board.changes(str(name), heartbeat_seconds=30)
        async with asyncio.timeout(30):
            return [record async for record, _ in changes][-1]


@pytest.fixture
def world(tmp_path: Path) -> World:
    write_bundle(tmp_path / "store" / "bundle")
    return World(local_place(tmp_path / "store"), tmp_path)

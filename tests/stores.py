"""Places to put objects, for tests that hold on every store."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from services.common.settings import StorageSettings
from services.common.storage.base import ObjectStore
from services.common.storage.metered import MeteredStore
from services.common.storage.router import open_store
from services.common.storage.uris import file_uri
from tests.weed import BUCKET, Weed


@dataclass(frozen=True, kw_only=True)
class Place:
    """An empty folder of a store; `base` is its URI, without a slash at the end; `metered` as the services have it."""

    settings: StorageSettings
    base: str
    metered: bool = False

    @property
    def store(self) -> ObjectStore:
        """A store of its own each time, as every process has."""
        store = open_store(self.settings)
        return MeteredStore(store, lambda _call: None) if self.metered else store

    def uri(self, key: str) -> str:
        return f"{self.base}/{key}"


def local_place(folder: Path) -> Place:
    return Place(settings=StorageSettings.model_validate({"file_roots": (folder,)}), base=file_uri(folder))


def s3_place(weed: Weed, *, endpoint: str | None = None) -> Place:
    """A folder of its own in the bucket of the server; with `endpoint`, reached through what listens there."""
    return Place(settings=weed.settings(endpoint=endpoint), base=f"s3://{BUCKET}/{uuid.uuid4().hex}")

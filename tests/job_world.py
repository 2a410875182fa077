"""A small world for job processes: a local store with images, manifests and a model bundle, all real."""

from __future__ import annotations

import hashlib
import io
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eif_engine.data.preprocessing import Preprocessing
from eif_engine.losses.settings import LossSettings, ProxyNcaSettings
from eif_engine.models.bundle import Architecture
from eif_engine.models.save import save_bundle, state_dict_of
from eif_engine.models.small import mlp
from services.common.storage.base import ObjectStore
from services.influence.messages import Message, ProgressMessage, SucceededMessage
from services.influence.result_manifest import ResultManifest
from services.influence.spec import Artifact, JobRequest, JobSpec, RankSpec
from services.influence.worker.cancellation import Cancellation
from services.influence.worker.outbox import LastMessage
from services.influence.worker.settings import WorkerSettings
from services.influence.worker.stages import run_job
from tests.stores import Place, local_place

SIDE = 6
CLASSES = ("ant", "bee", "cat")
OPTIONS: dict[str, Any] = {"in_channels": 1, "image_size": SIDE, "hidden": 12, "features": 10}
SETTINGS = WorkerSettings(read_threads=2, decode_threads=2, cache_shard_samples=16, embedding_patience_s=1.0)


def png(pixels: NDArray[np.uint8], *, mode: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=mode)
    return buffer.getvalue()


def picture(label: int, seed: int) -> bytes:
    """Noise around a pattern of its class: classes overlap enough for confusions."""
    noise = np.random.default_rng(seed).normal(0, 60, (SIDE, SIDE))
    pattern = np.roll(np.linspace(40, 200, SIDE * SIDE).reshape(SIDE, SIDE), 2 * label, axis=1)
    return png((pattern + noise).clip(0, 255).astype(np.uint8))


class JobWorld:
    """Objects in a folder, and jobs on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "objects").mkdir(parents=True)
        self.place: Place = local_place(folder / "objects")
        self.store: ObjectStore = self.place.store
        self.sent: list[Message] = []

    def put(self, key: str, data: bytes) -> str:
        """Write an object, without the care of the store, which syncs each to disk; returns its URI."""
        path = self.folder / "objects" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return self.place.uri(key)

    def samples(self, split: str, count: int, *, digests: bool = True) -> list[dict[str, Any]]:
        """Images and their rows, class after class."""
        rows = []
        for number in range(count):
            label = number % len(CLASSES)
            data = picture(label, seed=number + 1000 * len(split))
            uri = self.put(f"{split}/{number:04d}.png", data)
            row = {"id": f"{split}-{number:04d}", "uri": uri, "label": CLASSES[label]}
            rows.append(row | ({"sha256": hashlib.sha256(data).hexdigest()} if digests else {}))
        return rows

    def manifest(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Artifact:
        """A manifest of rows."""
        return Artifact(uri=self.put(name, "".join(json.dumps(row) + "\n" for row in rows).encode()))

    def bundle(
        self,
        name: str = "model",
        *,
        classes: Sequence[str] = CLASSES,
        loss: LossSettings | None = None,
        changes: Mapping[str, Tensor] | None = None,
        drop: Sequence[str] = (),
        seed: int = 0,
        architecture: str = "mlp",
        options: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """A model bundle; `changes` replaces tensors of its state dict, `drop` leaves some out.

        `architecture` and further `options` are those of another network with the weights of an mlp (tests/plugin.py).
        """
        torch.manual_seed(seed)
        proxies = torch.randn(len(classes), 4)
        state = state_dict_of(backbone=mlp(**OPTIONS), head=nn.Linear(10, 4), proxies=proxies)
        save_bundle(
            self.folder / "objects" / name,
            architecture=Architecture(name=architecture, options=OPTIONS | dict(options or {})),
            loss=loss or ProxyNcaSettings(),
            classes=classes,
            preprocessing=Preprocessing(mode="L", resize=(SIDE, SIDE)),
            state_dict={key: value for key, value in (state | dict(changes or {})).items() if key not in drop},
        )
        return Artifact(uri=self.place.uri(f"{name}/model.json"))

    def rank_spec(self, *, train: int = 30, test: int = 18, **options: Any) -> RankSpec:
        """A rank job on new samples, or on the manifests that `options` name."""
        fields: dict[str, Any] = {}
        if "model" not in options:
            fields["model"] = self.bundle()
        for split, count in (("train", train), ("test", test)):
            if f"{split}_manifest" not in options:
                fields[f"{split}_manifest"] = self.manifest(f"{split}.jsonl", self.samples(split, count))
        return RankSpec(**fields, **options)

    def request(self, spec: JobSpec, **changes: Any) -> JobRequest:
        """A job of its own for a spec."""
        fields = {
            "name": "projects/p/influenceJobs/j",
            "uid": str(uuid.uuid4()),
            "attempt": 1,
            "output_uri_prefix": self.place.uri("out"),
        }
        return JobRequest(spec=spec, **(fields | changes))

    def run(
        self,
        request: JobRequest,
        *,
        settings: WorkerSettings = SETTINGS,
        store: ObjectStore | None = None,
        cancellation: Cancellation | None = None,
    ) -> LastMessage:
        """Run a job in this process."""
        return run_job(
            request,
            store=store or self.store,
            settings=settings,
            scratch=self.folder / "scratch",
            send=self.sent.append,
            cancellation=cancellation or Cancellation(),
        )

    def progress(self) -> list[ProgressMessage]:
        """The progress of all jobs that ran here."""
        return [message for message in self.sent if isinstance(message, ProgressMessage)]

    def result(self, message: LastMessage) -> Result:
        """The result of a job that succeeded."""
        assert isinstance(message, SucceededMessage), message
        data = self.store.read(message.manifest_uri, max_bytes=1 << 20)
        assert hashlib.sha256(data).hexdigest() == message.manifest_sha256
        return Result(self.store, message.manifest_uri.rpartition("/")[0], ResultManifest.model_validate_json(data))


class Result:
    """What a job wrote."""

    def __init__(self, store: ObjectStore, folder: str, manifest: ResultManifest) -> None:
        self._store, self._folder, self.manifest = store, folder, manifest

    @property
    def figures(self) -> dict[str, float]:
        return self.manifest.figures

    def bytes(self, table: str) -> bytes:
        """A table as it lies in the store, verified."""
        entry = self.manifest.tables[table]
        data = self._store.read(f"{self._folder}/{entry.file}", max_bytes=entry.bytes, sha256=entry.sha256)
        assert len(data) == entry.bytes
        return data

    def file(self, name: str) -> str:
        """The text of another file, verified."""
        entry = self.manifest.files[name]
        return self._store.read(f"{self._folder}/{entry.file}", max_bytes=entry.bytes, sha256=entry.sha256).decode()

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Rows of a table."""
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(self.bytes(table))).to_pylist()
        assert len(rows) == self.manifest.tables[table].rows
        return rows

    def ranking(self, query_id: str = "all") -> list[dict[str, Any]]:
        """The ranking of a query."""
        return [row for row in self.rows("ranking") if row["query_id"] == query_id]

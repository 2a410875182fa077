"""Put the model, its ONNX export, the images and the manifests where the services read them: into the object store."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from eif_engine.models.export import export_onnx
from eif_engine.models.save import save_bundle
from eif_engine.types import Progress
from services.common.storage.base import ObjectStore
from services.demo.data import DemoData, DemoImage
from services.demo.train import Trained

SOURCES = ("annotator-1", "annotator-2", "annotator-3")
"""Of the column `source`: manifests may have any columns beside id, uri and label."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """URIs of what was put there; `broken_manifest` has a line without a label."""

    model: str
    onnx: str
    train_manifest: str
    test_manifest: str
    broken_manifest: str


def export(data: DemoData, trained: Trained, folder: Path) -> float:
    """Write the bundle and its verified ONNX export; the largest difference between the two on real images."""
    save_bundle(
        folder / "model",
        architecture=trained.architecture,
        loss=trained.loss,
        classes=trained.classes,
        preprocessing=trained.preprocessing,
        state_dict=trained.state_dict,
    )
    report = export_onnx(folder / "model", folder / "onnx", images=[image.png for image in data.test[:16]])
    return report.verification.max_abs_difference


def publish(store: ObjectStore, prefix: str, folder: Path, data: DemoData, *, progress: Progress) -> Published:
    """Upload bundle, export, images (one WebDataset tar a split) and manifests under `prefix`."""
    files = {
        f"{part.name}/{file.name}": file for part in (folder / "model", folder / "onnx") for file in part.iterdir()
    }
    objects: dict[str, bytes | Path] = dict(sorted(files.items()))
    for split, images in (("train", data.train), ("test", data.test)):
        objects[f"{split}.tar"] = _tar(images)
        objects[f"{split}.parquet"] = _manifest(images, f"{prefix}/{split}.tar")
    objects["broken.jsonl"] = _broken_manifest(data.train[0], f"{prefix}/train.tar")
    for done, (name, content) in enumerate(objects.items(), start=1):
        store.put(f"{prefix}/{name}", content)
        progress(done, len(objects))
    return Published(
        model=f"{prefix}/model/model.json",
        onnx=f"{prefix}/onnx/onnx.json",
        train_manifest=f"{prefix}/train.parquet",
        test_manifest=f"{prefix}/test.parquet",
        broken_manifest=f"{prefix}/broken.jsonl",
    )


def _member(image: DemoImage) -> str:
    return image.sample_id if image.sample_id.endswith(".png") else f"{image.sample_id}.png"


def _tar(images: list[DemoImage]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for image in images:
            member = tarfile.TarInfo(_member(image))
            member.size = len(image.png)
            tar.addfile(member, io.BytesIO(image.png))
    return buffer.getvalue()


def _manifest(images: list[DemoImage], tar_uri: str) -> bytes:
    table = pa.table(
        {
            "id": [image.sample_id for image in images],
            "uri": [tar_uri] * len(images),
            "member": [_member(image) for image in images],
            "label": [image.label for image in images],
            "sha256": [hashlib.sha256(image.png).hexdigest() for image in images],
            "source": [SOURCES[row % len(SOURCES)] for row in range(len(images))],
        }
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _broken_manifest(image: DemoImage, tar_uri: str) -> bytes:
    row = {"id": image.sample_id, "uri": tar_uri, "member": _member(image), "label": image.label}
    without_label = {name: value for name, value in row.items() if name != "label"} | {"id": "the-second"}
    return "".join(json.dumps(each) + "\n" for each in (row, without_label)).encode()

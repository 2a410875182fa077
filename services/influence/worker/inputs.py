"""What a job reads before it computes: the model bundle and the manifests, verified."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from eif_engine.errors import CheckpointIncompatible, CheckpointUnsafe, EifError, LabelUnknown, ModelBundleInvalid
from eif_engine.models.bundle import MODEL_JSON, ModelBundle, model_key, parse_bundle
from eif_engine.models.checkpoint import load_model
from eif_engine.models.loaded import LoadedModel
from eif_engine.models.schema import MAX_JSON_BYTES
from eif_engine.types import Sample
from services.common.manifests import fetch_manifest
from services.influence.spec import Artifact
from services.influence.worker.job import Job
from services.influence.worker.split import Split

CHECK_EVERY_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class JobModel:
    """The model of a job.

    Attributes:
        loaded: Ready to be explained, on the job's device.
        bundle: Its model.json.
        uri: Of model.json.
        sha256: Of model.json, hex.
        device: Where it is.
    """

    loaded: LoadedModel
    bundle: ModelBundle
    uri: str
    sha256: str
    device: torch.device

    @property
    def feature_dim(self) -> int:
        """F."""
        return int(self.loaded.head.weight_DF.shape[1])

    @property
    def cache_key(self) -> str:
        """Under which its features are kept; those of a GPU differ from those of a CPU in their last bits."""
        return f"{model_key(self.bundle)}-{self.device.type}"


def fetch_model(job: Job, artifact: Artifact, device: torch.device) -> JobModel:
    """Fetch a model bundle and load it.

    Raises:
        EifError: OBJECT_NOT_FOUND, OBJECT_DIGEST_MISMATCH, MODEL_BUNDLE_INVALID, CHECKPOINT_UNSAFE,
            CHECKPOINT_INCOMPATIBLE and others; the message names the URI of model.json or of the file.
    """
    uri = artifact.uri if artifact.uri.endswith(f"/{MODEL_JSON}") else f"{artifact.uri.rstrip('/')}/{MODEL_JSON}"
    data = job.store.read(uri, max_bytes=MAX_JSON_BYTES, sha256=artifact.sha256)
    bundle = parse_bundle(data, uri=uri)
    folder = job.scratch / "model"
    folder.mkdir()
    (folder / MODEL_JSON).write_bytes(data)
    for file in bundle.files:
        source = f"{uri.removesuffix(MODEL_JSON)}{file.file}"
        job.store.download(source, folder / file.file, max_bytes=job.settings.max_weights_bytes, sha256=file.sha256)
        job.cancellation.check()
    try:
        loaded = load_model(folder, device=device)
    except (ModelBundleInvalid, CheckpointUnsafe, CheckpointIncompatible) as error:
        raise _named(error, uri) from error
    return JobModel(loaded=loaded, bundle=bundle, uri=uri, sha256=hashlib.sha256(data).hexdigest(), device=device)


def fetch_split(job: Job, artifact: Artifact, name: str, *, columns: Sequence[str] = ()) -> Split:
    """Fetch a manifest and read its samples. Raises OBJECT_NOT_FOUND, MANIFEST_INVALID and others."""
    digest, samples = fetch_manifest(
        job.store,
        artifact.uri,
        artifact.sha256,
        job.scratch / f"{name}-manifest",
        max_bytes=job.settings.max_manifest_bytes,
    )
    return Split(name, uri=artifact.uri, sha256=digest, samples=_checked(job, samples), columns=columns)


def class_indices(split: Split, rows: Iterable[int], classes: Sequence[str]) -> NDArray[np.int64]:
    """The class of each row as its place among `classes`.

    Raises:
        LabelUnknown: The model was not trained on the label; names the sample, the line and the label.
    """
    index = {label: place for place, label in enumerate(classes)}
    return np.fromiter((_index_of(split, row, index) for row in rows), dtype=np.int64)


def _index_of(split: Split, row: int, index: dict[str, int]) -> int:
    place = index.get(split.labels[row])
    if place is None:
        sample = split.sample(row)
        raise LabelUnknown(
            f"{split.uri}, line {sample.line}: sample {sample.sample_id!r} has label {sample.label!r}, which is "
            f"not among the {len(index):,} classes of model.json: take the sample out, or give its own model",
            uri=split.uri,
            line=sample.line,
            sample_id=sample.sample_id,
            label=sample.label,
        )
    return place


def _checked(job: Job, samples: Iterator[Sample]) -> Iterator[Sample]:
    for sample, number in zip(samples, count(), strict=False):
        if number % CHECK_EVERY_ROWS == 0:
            job.cancellation.check()
        yield sample


def _named(error: EifError, uri: str) -> EifError:
    """The same error, with the URI of the bundle before its message: files are known there by their names alone."""
    return type(error)(f"{uri}: {error.message}", **{**error.metadata, "uri": uri})

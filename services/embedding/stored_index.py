"""An index in the object store: `vectors.parquet`, and MANIFEST.json, written last, without which there is no index.

They lie in `<index_uri_prefix>/<project>/<index>/<uid>/`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from eif_engine.config import NeighborSpace
from services.common.errors import ServiceError
from services.embedding.bundles import file_sha256
from services.embedding.faiss_index import FaissIndex
from services.embedding.records import QuarantinedSample, Record
from services.embedding.stored_vectors import read_vectors

if TYPE_CHECKING:
    from pathlib import Path

    from services.common.storage.base import ObjectStore
    from services.embedding.names import Name

MANIFEST_NAME = "MANIFEST.json"
VECTORS_NAME = "vectors.parquet"
MAX_MANIFEST_BYTES = 16 << 20


class VectorsEntry(Record):
    """The file of vectors, beside the manifest."""

    file: Literal["vectors.parquet"] = "vectors.parquet"
    sha256: str
    bytes: int = Field(ge=0)
    rows: int = Field(ge=0)


class IndexManifest(Record):
    """MANIFEST.json: what the index is, and what it was made from.

    Attributes:
        model_sha256: Of the onnx.json that embedded the samples.
        weights_sha256: Of the checkpoint behind it.
        metric: Of the distances that searches give.
    """

    schema_version: Literal[1] = 1
    name: str
    uid: str
    model: str
    model_sha256: str
    weights_sha256: str
    manifest_uri: str
    manifest_sha256: str
    space: NeighborSpace
    metric: Literal["squared_euclidean_of_unit_vectors"] = "squared_euclidean_of_unit_vectors"
    dim: int = Field(ge=1)
    samples_total: int
    samples_quarantined: int
    quarantined: tuple[QuarantinedSample, ...]
    vectors: VectorsEntry
    execution_provider: str
    software_version: str


def folder_uri(prefix: str, name: Name, uid: str) -> str:
    """Where an index is stored."""
    return f"{prefix}/{name.project}/{name.id}/{uid}"


def manifest_uri(folder: str) -> str:
    """MANIFEST.json of a stored index."""
    return f"{folder}/{MANIFEST_NAME}"


def check_target(store: ObjectStore, folder: str) -> None:
    """Find out before a build whether the store can be reached and allows the folder. Raises as the store's `head`."""
    try:
        store.head(manifest_uri(folder))
    except ServiceError as error:
        if error.reason != "OBJECT_NOT_FOUND":
            raise


def store_index(store: ObjectStore, folder: str, vectors: Path, manifest: IndexManifest) -> str:
    """Put the vectors, then the manifest that names them. Returns the sha256 of the manifest."""
    store.put(f"{folder}/{VECTORS_NAME}", vectors)
    data = manifest.model_dump_json(indent=1).encode()
    store.put(manifest_uri(folder), data)
    return hashlib.sha256(data).hexdigest()


def vectors_entry(path: Path, rows: int) -> VectorsEntry:
    """What the manifest says of a file of vectors."""
    return VectorsEntry(sha256=file_sha256(path), bytes=path.stat().st_size, rows=rows)


def read_index_manifest(store: ObjectStore, folder: str, *, sha256: str | None = None) -> tuple[IndexManifest, str]:
    """MANIFEST.json and its sha256.

    Raises:
        ServiceError: OBJECT_NOT_FOUND when nothing is stored, RESULT_CORRUPT when it is not what was written.
    """
    uri = manifest_uri(folder)
    data = store.read(uri, max_bytes=MAX_MANIFEST_BYTES, sha256=sha256)
    try:
        return IndexManifest.model_validate_json(data), hashlib.sha256(data).hexdigest()
    except ValidationError as error:
        raise ServiceError(
            "RESULT_CORRUPT", f"{uri} is not the manifest of an index: delete the index and create it again", uri=uri
        ) from error


def open_stored_index(store: ObjectStore, folder: str, *, sha256: str, scratch: Path, threads: int) -> FaissIndex:
    """Bring a stored index into memory, verified by its digests.

    Args:
        store: Where it lies.
        folder: Its URI.
        sha256: Of MANIFEST.json.
        scratch: A file that does not exist; it is gone afterwards.
        threads: Of one search.

    Raises:
        ServiceError: As the store's; RESULT_CORRUPT.
    """
    manifest, _ = read_index_manifest(store, folder, sha256=sha256)
    entry, uri = manifest.vectors, f"{folder}/{VECTORS_NAME}"
    try:
        store.download(uri, scratch, max_bytes=entry.bytes, sha256=entry.sha256)
        return load_vectors(scratch, uri=uri, dim=manifest.dim, rows=entry.rows, threads=threads)
    finally:
        scratch.unlink(missing_ok=True)


def load_vectors(path: Path, *, uri: str, dim: int, rows: int, threads: int) -> FaissIndex:
    """The index of a file of vectors. Raises RESULT_CORRUPT when it is not of this size."""
    stored = read_vectors(path, uri=uri)
    if stored.vectors_ND.shape != (rows, dim):
        raise ServiceError(
            "RESULT_CORRUPT",
            f"{uri} holds {stored.vectors_ND.shape[0]} vectors of size {stored.vectors_ND.shape[1]}, "
            f"its manifest says {rows} of {dim}: delete the index and create it again",
            uri=uri,
        )
    return FaissIndex(sample_ids=stored.sample_ids, labels=stored.labels, vectors_ND=stored.vectors_ND, threads=threads)


def delete_stored_index(store: ObjectStore, folder: str) -> None:
    """Remove what is stored, the manifest first, so that a half-deleted index is none."""
    store.delete(manifest_uri(folder))
    for item in list(store.list(f"{folder}/")):
        store.delete(item.uri)

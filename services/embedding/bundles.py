"""ONNX bundles on this machine: fetched from the object store into a private folder, each file with its digest."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from eif_engine.errors import OnnxInvalid
from eif_engine.models.onnx_bundle import ONNX_JSON, OnnxBundle, parse_onnx_bundle, read_onnx_bundle
from eif_engine.models.schema import MAX_JSON_BYTES
from services.common.errors import ServiceError

if TYPE_CHECKING:
    from pathlib import Path

    from services.common.storage.base import ObjectStore


def fetch_bundle(store: ObjectStore, uri: str, folder: Path, *, sha256: str | None, max_bytes: int) -> str:
    """Copy a bundle into `folder`, which is created for it.

    Args:
        store: Where it lies.
        uri: Its onnx.json, or the folder that holds it.
        folder: Must not exist yet.
        sha256: Digest that onnx.json must have, if known.
        max_bytes: Of the model and its external data together; checked before anything is copied.

    Returns:
        The sha256 of onnx.json, which stands for the whole: it names the digest of every other file.

    Raises:
        ServiceError: As the store's; OBJECT_DIGEST_MISMATCH for a file that is not the one onnx.json names.
        ModelBundleInvalid: onnx.json breaks its schema.
        OnnxInvalid: The files are larger than `max_bytes`.
    """
    json_uri = onnx_json_uri(uri)
    data = store.read(json_uri, max_bytes=MAX_JSON_BYTES, sha256=sha256)
    bundle = parse_onnx_bundle(data, uri=json_uri)
    base = json_uri.rpartition("/")[0]
    _check_size(store, base, bundle, max_bytes)
    folder.mkdir(parents=True, mode=0o700)
    for ref in bundle.files:
        store.download(f"{base}/{ref.file}", folder / ref.file, max_bytes=max_bytes, sha256=ref.sha256)
    (folder / ONNX_JSON).write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def is_intact(folder: Path, sha256: str) -> bool:
    """Whether the folder holds the whole bundle whose onnx.json has this digest."""
    try:
        if file_sha256(folder / ONNX_JSON) != sha256:
            return False
        return all(file_sha256(folder / ref.file) == ref.sha256 for ref in read_onnx_bundle(folder).files)
    except OSError:
        return False


def onnx_json_uri(uri: str) -> str:
    """The onnx.json of a bundle, from its own URI or its folder's."""
    return uri if uri.endswith(".json") else f"{uri.rstrip('/')}/{ONNX_JSON}"


def file_sha256(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_size(store: ObjectStore, base: str, bundle: OnnxBundle, max_bytes: int) -> None:
    size = 0
    for ref in bundle.files:
        uri = f"{base}/{ref.file}"
        try:
            size += store.head(uri).size
        except ServiceError as error:
            if error.reason == "OBJECT_NOT_FOUND":
                raise ServiceError(
                    "OBJECT_NOT_FOUND", f"{uri} is not there, but {ONNX_JSON} beside it names it", uri=uri
                ) from error
            raise
    if size > max_bytes:
        raise OnnxInvalid(
            f"{base} has {size:,} bytes of model and external data, over this server's limit of {max_bytes:,}",
            location=base,
            bytes=size,
            limit=max_bytes,
        )

"""Manifests out of the object store."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from eif_engine.data.manifest import DEFAULT_LIMITS, FORMATS, ManifestLimits, read_manifest
from eif_engine.types import Sample
from services.common.storage.base import ObjectStore


def fetch_manifest(
    store: ObjectStore,
    uri: str,
    sha256: str | None,
    scratch: Path,
    *,
    max_bytes: int = 4 << 30,
    limits: ManifestLimits = DEFAULT_LIMITS,
) -> tuple[str, Iterator[Sample]]:
    """Copy a manifest to `scratch` and read it.

    Args:
        store: Where it lies.
        uri: Its URI; the suffix tells the format.
        sha256: The digest it must have, if known.
        scratch: A folder of the caller's, where the copy stays.
        max_bytes: Of the object.
        limits: What a manifest may hold.

    Returns:
        Its sha256, and its samples in order; reading those raises ManifestInvalid where a row is wrong.
    """
    suffix = next((name for name in reversed(FORMATS) if uri.lower().endswith(name)), "")
    scratch.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(prefix="manifest-", dir=scratch)) / f"manifest{suffix}"
    digest = store.download(uri, copy, max_bytes=max_bytes, sha256=sha256)
    return digest, read_manifest(copy, uri=uri, limits=limits)

"""Manifests: a table of samples, read as a stream and validated row by row.

Formats, by suffix: `.parquet`, `.jsonl`, `.jsonl.gz`, `.csv`. Columns `id`, `uri` and `label` are required; `member`
and `sha256` are optional; every other column is kept as text. Memory does not grow with the rows, but for about
200 bytes an id, which find duplicates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from eif_engine.data.manifest_limits import DEFAULT_LIMITS, FORMATS, ManifestLimits
from eif_engine.data.manifest_parquet import parquet_rows
from eif_engine.data.manifest_row import Row, to_sample
from eif_engine.data.manifest_text import csv_rows, jsonl_rows
from eif_engine.errors import ManifestInvalid
from eif_engine.types import Sample

__all__ = ["DEFAULT_LIMITS", "FORMATS", "ManifestLimits", "read_manifest"]

_Reader = Callable[[Path, str, ManifestLimits], Iterator[Row]]
_READERS: dict[str, _Reader] = {
    ".parquet": parquet_rows,
    ".jsonl": jsonl_rows,
    ".jsonl.gz": jsonl_rows,
    ".csv": csv_rows,
}


def read_manifest(path: Path, *, uri: str = "", limits: ManifestLimits = DEFAULT_LIMITS) -> Iterator[Sample]:
    """Read samples in the order of the manifest.

    Args:
        path: A local copy of the manifest.
        uri: Its name to the caller, for errors; its suffix tells the format. The path, when empty.
        limits: Largest line, file and number of rows.

    Yields:
        Each sample, validated.

    Raises:
        ManifestInvalid: Naming the manifest, the line (from 1; the row, in Parquet) and the field. Raised when the
            row is reached: what was yielded before it is sound.
    """
    uri = uri or str(path)
    seen: dict[bytes, int] = {}
    for row in _reader(uri)(path, uri, limits):
        sample = to_sample(row, uri=uri)
        digest = hashlib.blake2b(sample.sample_id.encode(), digest_size=16).digest()
        first = seen.setdefault(digest, row.line)
        if first != row.line:
            raise ManifestInvalid(
                f"{uri}, line {row.line}: id {sample.sample_id!r} was already used in line {first}; ids must be unique",
                uri=uri,
                line=row.line,
                first_line=first,
                field="id",
            )
        yield sample
    if not seen:
        raise ManifestInvalid(f"{uri} is empty: it has no samples", uri=uri)


def _reader(uri: str) -> _Reader:
    name = uri.lower()
    for suffix, reader in _READERS.items():
        if name.endswith(suffix):
            return reader
    raise ManifestInvalid(f"{uri}: a manifest's name ends with one of {', '.join(FORMATS)}", uri=uri)

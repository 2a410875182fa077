"""Manifests of this machine: read, and rewritten with nothing changed but what is to change."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from services.client.roundtrip.csv_manifest import CsvManifest
from services.client.roundtrip.errors import RoundTripError
from services.client.roundtrip.jsonl_manifest import JsonlManifest
from services.client.roundtrip.parquet_manifest import Change, parquet_records, rewrite_parquet
from services.client.roundtrip.records import Record, TextManifest

_TEXT: dict[str, Callable[[Path], TextManifest]] = {
    ".jsonl.gz": JsonlManifest,
    ".jsonl": JsonlManifest,
    ".csv": CsvManifest,
}
FORMATS = (".parquet", *_TEXT)


def format_of(path: Path) -> str:
    """The suffix that tells the format. Raises RoundTripError."""
    for suffix in FORMATS:
        if path.name.lower().endswith(suffix):
            return suffix
    raise RoundTripError(f"{path}: a manifest's name ends with one of {', '.join(FORMATS)}")


def samples(path: Path) -> Iterator[Record]:
    """The samples of a manifest, in its order."""
    suffix = format_of(path)
    if suffix == ".parquet":
        yield from parquet_records(path)
        return
    for record in _TEXT[suffix](path).records():
        if record.sample_id is not None:
            yield record


def rewrite(path: Path, out: Path, change: Change) -> None:
    """Write a manifest with what `change` says of each sample: its label, another, or None to leave it out.

    `out` has the same format. Rows and columns that are not changed keep their bytes (in Parquet, their values).
    """
    suffix = format_of(path)
    if suffix == ".parquet":
        rewrite_parquet(path, out, change)
        return
    manifest = _TEXT[suffix](path)
    with _open_for_writing(out, suffix) as file:
        for record in manifest.records():
            label = record.label if record.sample_id is None else change(record)
            if label == record.label:
                file.write(record.raw)
            elif label is not None:
                file.write(manifest.relabelled(record, label))


@contextmanager
def _open_for_writing(path: Path, suffix: str) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        if suffix.endswith(".gz"):
            # No time and no name inside: the same records give the same bytes.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield cast("BinaryIO", packed)
        else:
            yield file
        file.flush()
        os.fsync(file.fileno())

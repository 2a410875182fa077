"""The samples of one manifest, by columns: a million of them fit in a few hundred megabytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from sys import intern

import numpy as np
from numpy.typing import NDArray

from eif_engine.types import Sample

DIGEST_BYTES = 32
BYTES_PER_SAMPLE = 600
"""What a sample takes here, and in the lists that a job makes of it; measured with ids and URIs of usual length."""


class Split:
    """Samples of a manifest, in its order.

    Args:
        name: `train` or `test`.
        uri: Of the manifest.
        sha256: Of the manifest, hex.
        samples: Read once.
        columns: Further columns that are kept.
    """

    def __init__(
        self, name: str, *, uri: str, sha256: str, samples: Iterable[Sample], columns: Sequence[str] = ()
    ) -> None:
        self.name, self.uri, self.sha256 = name, uri, sha256
        self._columns: dict[str, list[str | None]] = {column: [] for column in columns}
        self.sample_ids: list[str] = []
        self.labels: list[str] = []
        self._uris: list[str] = []
        self._members: dict[int, str] = {}
        self._lines = array("q")
        self._digests = bytearray()
        self._has_digest = bytearray()
        for sample in samples:
            self._append(sample)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def sample(self, row: int) -> Sample:
        """The sample of a row, without its extra columns."""
        start = row * DIGEST_BYTES
        return Sample(
            sample_id=self.sample_ids[row],
            uri=self._uris[row],
            label=self.labels[row],
            member=self._members.get(row),
            sha256=self._digests[start : start + DIGEST_BYTES].hex() if self._has_digest[row] else None,
            line=self._lines[row],
        )

    def column(self, name: str) -> list[str | None]:
        """A column that was kept; None where a row does not have it."""
        return self._columns[name]

    def digests(self) -> NDArray[np.uint8]:
        """Digests of the images (N, 32) as the manifest gives them; zeros where it does not."""
        return np.frombuffer(self._digests, dtype=np.uint8).reshape(-1, DIGEST_BYTES)

    def has_digest(self) -> NDArray[np.bool_]:
        """For which rows the manifest gives the digest of the image."""
        return np.frombuffer(self._has_digest, dtype=np.bool_)

    def _append(self, sample: Sample) -> None:
        if sample.member is not None:
            self._members[len(self)] = sample.member
        self.sample_ids.append(sample.sample_id)
        self.labels.append(intern(sample.label))
        self._uris.append(intern(sample.uri) if sample.member is not None else sample.uri)
        self._lines.append(sample.line)
        self._digests += bytes.fromhex(sample.sha256) if sample.sha256 else bytes(DIGEST_BYTES)
        self._has_digest.append(sample.sha256 is not None)
        for name, values in self._columns.items():
            value = sample.extra.get(name)
            values.append(None if value is None else intern(value))

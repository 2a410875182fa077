"""Small pictures of samples, kept for the next audit: most of what it shows is what the last ones have shown.

One object for all audits with the same output prefix, and so never for another project's; the last to write it wins.
"""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from eif_engine import __version__
from services.influence.worker.kept import Kept, key_of
from services.influence.worker.report.thumbnails import EDGE, QUALITY

MAX_BYTES = 16 << 20
"""Of all pictures: some reports."""


class KeptThumbnails:
    """JPEGs by the sha256 (32 bytes) of the image.

    Args:
        kept: Where the object lies.
        prefix: The output prefix of the job.
    """

    def __init__(self, kept: Kept, prefix: str) -> None:
        self._kept, self._key = kept, key_of(f"{__version__} {EDGE} {QUALITY}", prefix)
        self._known = _unpacked(kept.get(self._key))
        self._used: dict[str, bytes] = {}

    def get(self, digest: bytes) -> bytes | None:
        """The picture of an image; None where it is not kept."""
        name = digest.hex()
        picture = self._known.get(name)
        if picture is not None:
            self._used[name] = picture
        return picture

    def add(self, digest: bytes, picture: bytes) -> None:
        """Take a new one."""
        self._used[digest.hex()] = picture

    def store(self) -> None:
        """Keep what was asked for or added, and of the others as many as fit. Raises STORAGE_UNAVAILABLE."""
        if self._used.keys() <= self._known.keys():
            return
        pictures, left = {}, MAX_BYTES
        for name, picture in (self._used | self._known).items():
            left -= len(picture)
            if left < 0:
                break
            pictures[name] = np.frombuffer(picture, dtype=np.uint8)
        self._kept.put(self._key, save(pictures))


def _unpacked(content: bytes | None) -> dict[str, bytes]:
    try:
        return {} if content is None else {name: array.tobytes() for name, array in sorted(load(content).items())}
    except (SafetensorError, ValueError, KeyError):
        return {}

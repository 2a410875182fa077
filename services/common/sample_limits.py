"""How much may be read, held and kept while samples are fetched."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SampleLimits:
    """Checked before anything is allocated.

    Attributes:
        max_sample_bytes: Of one image file.
        max_tar_bytes: Of one tar.
        max_scratch_bytes: Of the tars kept on disk at a time; the least recently used go first.
        max_bytes_in_flight: Of the images read and not yet handed over; one image may always be in flight.
    """

    max_sample_bytes: int = 20 << 20
    max_tar_bytes: int = 4 << 30
    max_scratch_bytes: int = 16 << 30
    max_bytes_in_flight: int = 256 << 20


DEFAULT_LIMITS = SampleLimits()

"""What a manifest may be: its formats, and how large."""

from __future__ import annotations

from dataclasses import dataclass

FORMATS = (".parquet", ".jsonl", ".jsonl.gz", ".csv")
"""A manifest's name ends with one of them."""


@dataclass(frozen=True, kw_only=True)
class ManifestLimits:
    """Checked while reading, so that nothing larger is ever held.

    Attributes:
        max_line_bytes: Of one line of text, or one value of a Parquet column.
        max_bytes: Of all text, after decompression.
        max_rows: Lines of text, blank ones included, or rows of Parquet.
        max_columns: Columns.
    """

    max_line_bytes: int = 2**20
    max_bytes: int = 8 * 2**30
    max_rows: int = 20_000_000
    max_columns: int = 256


DEFAULT_LIMITS = ManifestLimits()

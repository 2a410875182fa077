"""How much goes into one page; everything is in the Parquet files."""

from __future__ import annotations

from dataclasses import dataclass, fields

MAX_FILE_BYTES = 14_500_000
"""Of the whole page."""
MAX_ROW_BYTES = 5_000_000
"""Of the rows in it; past that, fewer rows are shown."""
MAX_THUMBNAILS = 3000
"""Read from the object store at most."""
MAX_EXPLANATION_BYTES = 4 << 20
"""Of all pictures of explained pairs together."""


@dataclass(frozen=True, kw_only=True)
class RowLimits:
    """Rows at most, by what they are of.

    Attributes:
        findings: Of all kinds together.
        issues: Training samples by doubt.
        test_issues: Test samples whose label looks wrong.
        set_aside: Confusions that blame nobody.
        classes: Confusion classes.
        pairs: Shown of a confusion class.
        ranked: Training samples of a confusion class, from each end.
        harm: Training samples by harm over all confusions, from the harmful end.
        help: The same from the helpful end.
        listing: Of every other table.
        members: Of a group of duplicates.
    """

    findings: int = 4000
    issues: int = 2000
    test_issues: int = 1000
    set_aside: int = 1000
    classes: int = 400
    pairs: int = 12
    ranked: int = 12
    harm: int = 500
    help: int = 100
    listing: int = 1000
    members: int = 12

    def halved(self) -> RowLimits:
        """Half of each, but at least one."""
        return RowLimits(**{each.name: max(1, getattr(self, each.name) // 2) for each in fields(self)})

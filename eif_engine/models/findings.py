"""What the linter of model bundles says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """ERROR: the bundle cannot be used. WARNING: it can, but look at it. OK: what was checked and found right."""

    ERROR = "ERROR"
    WARNING = "WARNING"
    OK = "OK"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the linter.

    Attributes:
        level: How bad.
        code: Stable, for machines: a reason of errors.py, or a kind of mismatch or oddity.
        message: Names the file, key or field.
    """

    level: Level
    code: str
    message: str


def is_usable(findings: list[Finding]) -> bool:
    """Whether `load_model` takes the bundle."""
    return all(finding.level is not Level.ERROR for finding in findings)

"""What a report is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa

SampleKey = tuple[str, str]
"""Split (`train` or `test`) and sample id."""

Thumbnails = Callable[[Sequence[SampleKey]], Mapping[SampleKey, bytes]]
"""JPEG bytes (at most 96 px) of the samples asked for; those that cannot be read are left out."""


@dataclass(frozen=True, kw_only=True)
class FindingChange:
    """A finding, and what became of it since the previous audit.

    Attributes:
        change: `new`, `fixed` or `persisting`; the rest as in the table `findings`.
    """

    change: str
    finding_id: str
    kind: str
    sample_id: str = ""
    other_id: str = ""
    label: str = ""
    other_label: str = ""
    severity: float = 0.0
    summary: str = ""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What is different from a previous audit.

    Attributes:
        previous: Its name.
        figures: Its figures.
        changes: Findings that are new, fixed or persisting; those not named show no change.
    """

    previous: str
    figures: Mapping[str, float] = field(default_factory=dict)
    changes: Sequence[FindingChange] = ()


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """A rule of a policy: `verdict` is PASS, WARN or FAIL."""

    rule: str
    verdict: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a policy says: PASS, WARN or FAIL, and why."""

    verdict: str
    rules: Sequence[RuleResult] = ()


def _no_thumbnails(_keys: Sequence[SampleKey]) -> Mapping[SampleKey, bytes]:
    return {}


@dataclass(frozen=True, kw_only=True)
class ReportSource:
    """Everything that a report shows.

    Attributes:
        job: Resource name of the audit.
        display_name: Its title for people; may be empty.
        created: When it was created.
        provenance: Facts of the run by name.
        figures: By the names of `audit_figures.FIGURES`.
        missing: What is left out and why, one sentence each.
        tables: Tables by name, or their Parquet files; columns as in `tables.SCHEMAS`. Absent ones are empty.
        difference: From a previous audit.
        explanations: PNG of an explained pair by (sample id, neighbour id).
        verdict: Of a policy, where it is known.
        thumbnails: Reads small pictures.
    """

    job: str
    created: datetime
    display_name: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    missing: Sequence[str] = ()
    tables: Mapping[str, pa.Table | Path] = field(default_factory=dict)
    difference: Difference | None = None
    explanations: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    verdict: Verdict | None = None
    thumbnails: Thumbnails = _no_thumbnails

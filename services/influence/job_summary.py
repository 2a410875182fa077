"""The job table in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from services.influence.job import JobState


@dataclass(frozen=True, kw_only=True)
class JobSummary:
    """Of the job table.

    Attributes:
        counts: Jobs by state and kind; none of those that are not there.
        waiting_since: When the job that waits first in the queue was created; None when none waits.
    """

    counts: Mapping[tuple[JobState, str], int] = field(default_factory=dict)
    waiting_since: datetime | None = None

"""Leases: which server runs a job, since which claim, and what it has told of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.influence.job import Job
from services.influence.messages import ProgressMessage


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The right of one server to run one job and to say what becomes of it.

    Attributes:
        uid: Of the job.
        owner: Id of the server.
        epoch: One more at each claim of this job: what an older one writes is refused.
    """

    uid: str
    owner: str
    epoch: int


class LeaseLost(Exception):
    """Another claim of the job came after this one, or the job is gone: its holder has no say any more."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A job and the right to it.

    Attributes:
        job: As it is stored now.
        lease: Of the server that asked.
        crashed: It was taken over from another server, which let its lease expire.
    """

    job: Job
    lease: Lease
    crashed: bool = False


@dataclass(frozen=True, kw_only=True)
class ProgressNote:
    """How far a job is, as its owner stored it; `eta_s` as in Job."""

    progress: ProgressMessage
    eta_s: float | None
    time: datetime


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What changes of a stored job, without the job: its version, who holds it, how far it is."""

    version: int
    lease: Lease | None
    note: ProgressNote | None

"""How much a server takes and runs at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """Limits of jobs; those of a project hold over all servers, and 0 is none.

    Attributes:
        max_running: Job processes of this server.
        max_running_per_project: Jobs of a project that run.
        max_pending: Jobs that wait, of all projects.
        max_pending_per_project: Jobs of a project that wait.
        max_attempts: Runs of a job that may end in a kill from outside.
        lease_s: Seconds after which other servers take over the jobs of one that is silent.
    """

    max_running: int = 1
    max_running_per_project: int = 0
    max_pending: int = 1000
    max_pending_per_project: int = 0
    max_attempts: int = 3
    lease_s: float = 60.0

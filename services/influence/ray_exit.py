"""How the process of a job of the cluster ended, as what the cluster tells of it says."""

from __future__ import annotations

import signal

from services.influence.limits import Breach
from services.influence.ray_cluster import ClusterJob
from services.influence.runner import LastMessage

NO_ROOM = frozenset({"JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE"})
"""Faults of a job that waited for a place on the cluster, and got none."""

_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS})


def exit_of(job: ClusterJob) -> tuple[int | None, str | None]:
    """Exit code or signal. The shell that starts the command adds 128 to the number of a signal."""
    code = job.exit_code
    if code is None:
        return (0 if job.status == "SUCCEEDED" else None), ("SIGTERM" if job.status == "STOPPED" else None)
    number = -code if code < 0 else code - 128
    if code < 0 or number in _SIGNALS:
        return None, signal.Signals(number).name
    return code, None


def lost(job: ClusterJob, last: LastMessage | None) -> Breach | None:
    """A process that neither ended nor was stopped: it never started, its node is gone, or the cluster forgot it."""
    if job.status != "FAILED" or job.exit_code is not None or last is not None:
        return None
    if job.fault in NO_ROOM:
        what = (
            "the Ray cluster had no place for the job in the time that its RAY_JOB_START_TIMEOUT_SECONDS allows: add "
            "nodes, raise that time on the head, or lower EIF_INFLUENCE_MAX_RUNNING_JOBS"
        )
        return Breach(reason="CLUSTER_UNAVAILABLE", message=what, again=True)
    what = "the process of the job was lost with its node, or the cluster could not start it; its log says more"
    return Breach(reason="WORKER_CRASHED", message=what, again=True)

"""Claims and leases in SQL. Every function works inside of a transaction of its caller.

On PostgreSQL rows are locked, always the job before its lease, so that of two servers one waits and then sees what the
other has done. On SQLite there is one transaction that writes at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from services.influence.job import Job, JobState, start
from services.influence.job_tables import JOBS, LEASES, DatabaseSeconds
from services.influence.lease import Claim, Glance, Lease, LeaseLost, ProgressNote
from services.influence.sql_rows import ACTIVE, held_by, job_values, read_note, read_row, select_jobs, write_note


def claim_next(
    connection: sa.Connection,
    owner: str,
    *,
    lease_s: float,
    now: datetime,
    max_running_per_project: int,
    besides: Collection[str],
) -> Claim | None:
    """Start the waiting job whose turn it is; see JobStore.claim."""
    row = connection.execute(_next_waiting(max_running_per_project, besides)).one_or_none()
    if row is None:
        return None
    waiting = read_row(row)
    job = replace(start(waiting, now), version=waiting.version + 1)
    values = {**job_values(job), "started_at": DatabaseSeconds()}
    connection.execute(sa.update(JOBS).where(JOBS.c.uid == job.uid).values(**values))
    return Claim(job=job, lease=_grant(connection, job, owner, lease_s))


def take_abandoned(connection: sa.Connection, owner: str, *, lease_s: float, besides: Collection[str]) -> Claim | None:
    """Take over a job that nobody runs any more; see JobStore.take_over."""
    joined = select_jobs(LEASES.c.owner)
    abandoned = sa.or_(
        LEASES.c.owner.is_(None),  # started by a version without leases
        LEASES.c.owner == owner,  # this server holds it no more: it died, or gave up
        LEASES.c.expires < DatabaseSeconds(),
    )
    query = joined.where(JOBS.c.state.in_(ACTIVE), abandoned, JOBS.c.uid.not_in(besides))
    query = query.order_by(JOBS.c.position).limit(1).with_for_update(of=JOBS, skip_locked=True)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    job = read_row(row)
    still = sa.select(abandoned).where(LEASES.c.uid == job.uid).with_for_update()
    if connection.execute(still).scalar_one_or_none() is False:  # renewed a moment ago
        return None
    lease = _grant(connection, job, owner, lease_s)
    return Claim(job=job, lease=lease, crashed=row.owner is not None and row.owner != owner)


def require(connection: sa.Connection, lease: Lease, job: Job) -> None:
    """Raise LeaseLost unless this is the newest claim of the job; it stays so to the end of the transaction."""
    connection.execute(sa.select(JOBS.c.uid).where(JOBS.c.uid == job.uid).with_for_update())
    held = sa.select(LEASES.c.uid).where(*held_by(lease), LEASES.c.uid == job.uid).with_for_update()
    if connection.execute(held).one_or_none() is None:
        raise LeaseLost(f"{job.name} was claimed again after epoch {lease.epoch}")


def settle(connection: sa.Connection, job: Job) -> None:
    """Give back the lease of a job that runs no more. The epoch is kept where there can be another claim."""
    if job.state.ended:
        connection.execute(sa.delete(LEASES).where(LEASES.c.uid == job.uid))
    elif not job.state.active:
        nobody = {"owner": None, "expires": None, "progress": None}
        connection.execute(sa.update(LEASES).where(LEASES.c.uid == job.uid).values(**nobody))


def renew(connection: sa.Connection, notes: Mapping[Lease, ProgressNote | None], *, lease_s: float) -> frozenset[Lease]:
    """Move the end of leases, and store what is new; returns those that are lost."""
    lost = set()
    for lease in sorted(notes, key=lambda lease: lease.uid):  # in one order, so that two servers cannot deadlock
        note = notes[lease]
        values: dict[str, Any] = {"expires": DatabaseSeconds() + lease_s}
        if note is not None:
            values["progress"] = write_note(note)
        if connection.execute(sa.update(LEASES).where(*held_by(lease)).values(**values)).rowcount != 1:
            lost.add(lease)
    return frozenset(lost)


def look(connection: sa.Connection, uids: Collection[str]) -> dict[str, Glance]:
    """What has changed of jobs, in one query."""
    joined = JOBS.outerjoin(LEASES, LEASES.c.uid == JOBS.c.uid)
    columns = (JOBS.c.uid, JOBS.c.version, LEASES.c.owner, LEASES.c.epoch, LEASES.c.progress)
    rows = connection.execute(sa.select(*columns).select_from(joined).where(JOBS.c.uid.in_(uids)))
    return {uid: _glance(uid, *values) for uid, *values in rows}


def _next_waiting(max_running_per_project: int, besides: Collection[str]) -> sa.Select[Any]:
    """The oldest job of the project that has the fewest running, among those that may have one more."""
    jobs = JOBS.alias()
    counted = sa.select(jobs.c.project, sa.func.count().label("jobs")).where(jobs.c.state.in_(ACTIVE))
    busy = counted.group_by(jobs.c.project).subquery()
    running = sa.func.coalesce(busy.c.jobs, 0)
    query = sa.select(JOBS.c.document, sa.null().label("progress"))
    query = query.select_from(JOBS.outerjoin(busy, busy.c.project == JOBS.c.project))
    query = query.where(JOBS.c.state == JobState.PENDING.value, JOBS.c.uid.not_in(besides))
    if max_running_per_project:
        query = query.where(running < max_running_per_project)
    return query.order_by(running, JOBS.c.position).limit(1).with_for_update(of=JOBS, skip_locked=True)


def _grant(connection: sa.Connection, job: Job, owner: str, lease_s: float) -> Lease:
    """The next lease of a job, whose row is locked."""
    values = {"owner": owner, "expires": DatabaseSeconds() + lease_s}
    again = sa.update(LEASES).where(LEASES.c.uid == job.uid).values(epoch=LEASES.c.epoch + 1, **values)
    epoch = connection.execute(again.returning(LEASES.c.epoch)).scalar_one_or_none()
    if epoch is None:
        epoch = 1
        connection.execute(sa.insert(LEASES).values(uid=job.uid, epoch=epoch, **values))
    return Lease(uid=job.uid, owner=owner, epoch=epoch)


def _glance(uid: str, version: int, owner: str | None, epoch: int, progress: str | None) -> Glance:
    lease = None if owner is None else Lease(uid=uid, owner=owner, epoch=epoch)
    return Glance(version=version, lease=lease, note=read_note(progress))

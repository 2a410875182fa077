"""Waiting for a job or an index, with its progress shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from services.client.cli.failures import Interrupted
from services.client.cli.progress import Step, show

if TYPE_CHECKING:
    from services.client.embedding import EmbeddingClient
    from services.client.embeddings import Index
    from services.client.influence import InfluenceClient
    from services.client.jobs import Job
    from services.client.streams import Stream

Resource = TypeVar("Resource")


def follow_job(
    client: InfluenceClient, name: str, *, give_up_after: float | None, on_change: Callable[[Job], None] | None = None
) -> Job:
    """The job once it has ended, however that is. Raises DeadlineExceeded (WAIT_TIMEOUT) when the wait is over."""
    job = client.get_job(name)  # says at once that there is no such job, or no server
    try:
        return _follow(client.watch(job, timeout=give_up_after), job, job_step, on_change or _nothing)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped watching; {job.name} goes on: `eif watch {job.job_id}` follows it, "
            f"`eif jobs cancel {job.job_id}` stops it"
        ) from None


def follow_index(client: EmbeddingClient, name: str, *, give_up_after: float | None) -> Index:
    """The index once its build has ended. Raises DeadlineExceeded (WAIT_TIMEOUT) when the wait is over."""
    index = client.get_index(name)
    try:
        return _follow(client.watch_index(index, timeout=give_up_after), index, index_step, _nothing)
    except KeyboardInterrupt:
        raise Interrupted(
            f"stopped watching; the build of {index.name} goes on: `eif index watch {index.index_id}` follows it, "
            f"`eif index delete {index.index_id}` stops it"
        ) from None


def job_step(job: Job) -> Step:
    """What to show of a job."""
    progress = job.progress
    if job.state != "RUNNING" or progress is None or not progress.stage:
        return Step(title=f"{job.job_id} {job.state.lower()}")
    return Step(
        title=f"{job.job_id} {progress.stage} ({progress.stages_done + 1} of {progress.stages_total})",
        done=progress.done,
        total=progress.total,
        unit=progress.unit,
        eta_seconds=progress.eta_seconds,
    )


def index_step(index: Index) -> Step:
    """What to show of an index."""
    return Step(
        title=f"{index.index_id} {index.state.lower()}",
        done=index.samples_done,
        total=index.samples_total,
        unit="samples",
    )


def _follow(
    changes: Stream[Resource],
    last: Resource,
    step_of: Callable[[Resource], Step],
    on_change: Callable[[Resource], None],
) -> Resource:
    def steps() -> Iterator[Step]:
        nonlocal last
        for last in changes:
            on_change(last)
            yield step_of(last)

    with changes:
        show(steps())
    return last


def _nothing(_resource: object) -> None:
    """No one wants to know."""

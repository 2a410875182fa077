"""What every JobStore promises."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from services.common.errors import ServiceError
from services.influence import job as jobs
from services.influence.job import Job, JobError, JobState
from services.influence.job_store import JobStore, RequestKey, StaleJob
from services.influence.job_tables import METADATA
from services.influence.migrate import FOLDER, HEAD, migrate, upgrade
from services.influence.postgres import postgres_engine
from services.influence.spec import Artifact
from services.influence.sql_job_store import SqlJobStore
from services.influence.sqlite import sqlite_engine
from tests.databases import engine_of
from tests.jobs import PROGRESS, T1, make_job, make_output
from tests.postgres import Postgres

Reopen = Callable[[], JobStore]
REQUEST = RequestKey(project="p", request_id="123e4567-e89b-42d3-a456-426614174000", digest="d1")


def create(store: JobStore, job: Job, *, request: RequestKey | None = None, max_pending: int = 100) -> Job:
    return store.create(job, request=request, max_pending=max_pending)


def refused(reason: str, call: Callable[[], object]) -> str:
    with pytest.raises(ServiceError) as caught:
        call()
    assert caught.value.reason == reason
    return caught.value.message


def test_a_created_job_is_found_as_it_was_also_after_a_restart(store: JobStore, reopen: Reopen) -> None:
    job = make_job(
        display_name="ü",
        labels={"team": "x"},
        referred=Artifact(uri="s3://b/r.parquet", sha256="e" * 64),
        error=JobError(reason="JOB_CANCELLED", message="m", metadata={"a": "b"}),
        progress=PROGRESS,
        start_time=T1,
    )
    job = replace(job, output=make_output(job))
    assert create(store, job) == job
    assert store.get(job.name) == job
    assert reopen().get(job.name) == job


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    assert "projects/p/influenceJobs/none" in refused(
        "JOB_NOT_FOUND", lambda: store.get("projects/p/influenceJobs/none")
    )


def test_a_name_is_taken_once(store: JobStore) -> None:
    job = create(store, make_job("a"))
    assert job.name in refused("JOB_ALREADY_EXISTS", lambda: create(store, make_job("a")))
    create(store, make_job("a", project="q"))
    assert store.get(job.name) == job


def test_the_same_request_gives_the_same_job_as_it_is_now(store: JobStore, reopen: Reopen) -> None:
    assert store.find_request(REQUEST) is None
    job = create(store, make_job("a"), request=REQUEST)
    ended = store.replace(jobs.cancelled(job, T1))
    assert create(store, make_job("b"), request=REQUEST) == ended
    assert create(reopen(), make_job("a"), request=REQUEST) == ended
    assert store.find_request(REQUEST) == ended
    refused("JOB_NOT_FOUND", lambda: store.get(make_job("b").name))


def test_the_same_request_is_known_when_the_queue_is_full(store: JobStore) -> None:
    job = create(store, make_job("a"), request=REQUEST, max_pending=1)
    assert create(store, make_job("b"), request=REQUEST, max_pending=1) == job


def test_another_body_with_the_same_request_id_is_refused(store: JobStore) -> None:
    job = create(store, make_job("a"), request=REQUEST)
    other = replace(REQUEST, digest="d2")
    assert job.name in refused("REQUEST_ID_REUSED", lambda: create(store, make_job("b"), request=other))
    refused("REQUEST_ID_REUSED", lambda: store.find_request(other))
    create(store, make_job("b", project="q"), request=replace(other, project="q"))


def test_a_request_whose_job_was_deleted_makes_no_other(store: JobStore) -> None:
    job = store.replace(jobs.cancelled(create(store, make_job("a"), request=REQUEST), T1))
    store.delete(job)
    assert job.name in refused("JOB_NOT_FOUND", lambda: create(store, make_job("b"), request=REQUEST))
    create(store, make_job("a"))
    refused("JOB_NOT_FOUND", lambda: store.find_request(REQUEST))


def test_of_concurrent_duplicates_one_makes_the_job(store: JobStore) -> None:
    barrier = threading.Barrier(8)

    def attempt(number: int) -> Job:
        barrier.wait()
        return create(store, make_job(f"a{number}"), request=REQUEST)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(attempt, range(8)))
    assert len({job.uid for job in made}) == 1
    assert [job.uid for job in store.list("p", limit=10).jobs] == [made[0].uid]


def test_of_concurrent_names_one_is_made(store: JobStore) -> None:
    barrier = threading.Barrier(6)

    def attempt(_: int) -> str:
        barrier.wait()
        try:
            return create(store, make_job("a")).uid
        except ServiceError as error:
            return error.reason

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(attempt, range(6)))
    assert made.count("JOB_ALREADY_EXISTS") == 5
    assert store.get(make_job("a").name).uid in made


def test_the_queue_holds_what_it_may_also_under_concurrent_creates(store: JobStore) -> None:
    create(store, make_job("running", state=JobState.RUNNING))

    def attempt(number: int) -> str:
        try:
            create(store, make_job(f"a{number}"), max_pending=5)
        except ServiceError as error:
            return f"{error.reason} {error.metadata}"
        return "created"

    with ThreadPoolExecutor(4) as pool:
        outcomes = Counter(pool.map(attempt, range(20)))
    told = "QUEUE_FULL {'pending': '5', 'limit': '5', 'retry_after_s': '5.0'}"
    assert outcomes == {"created": 5, told: 15}
    assert store.count(JobState.PENDING) == 5


def test_a_change_is_stored_with_the_next_version(store: JobStore, reopen: Reopen) -> None:
    job = create(store, make_job())
    changed = store.replace(jobs.start(job, T1))
    assert changed == replace(jobs.start(job, T1), version=job.version + 1)
    assert reopen().get(job.name) == changed


def test_a_change_of_an_old_version_is_refused(store: JobStore) -> None:
    job = create(store, make_job())
    changed = store.replace(jobs.start(job, T1))
    with pytest.raises(StaleJob):
        store.replace(jobs.cancelled(job, T1))
    with pytest.raises(StaleJob):
        store.delete(job)
    assert store.get(job.name) == changed


def test_a_change_of_a_deleted_job_does_not_reach_its_successor(store: JobStore) -> None:
    job = create(store, make_job("a"))
    store.delete(job)
    successor = create(store, make_job("a"))
    with pytest.raises(StaleJob):
        store.replace(jobs.start(job, T1))
    with pytest.raises(StaleJob):
        store.delete(job)
    assert store.get(job.name) == successor


def test_of_concurrent_changes_one_wins(store: JobStore) -> None:
    job = create(store, make_job())
    barrier = threading.Barrier(6)

    def attempt(_: int) -> bool:
        barrier.wait()
        try:
            store.replace(jobs.start(job, T1))
        except StaleJob:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(attempt, range(6))) == 1


def test_a_deleted_job_is_gone(store: JobStore, reopen: Reopen) -> None:
    job = create(store, make_job())
    store.delete(job)
    refused("JOB_NOT_FOUND", lambda: store.get(job.name))
    assert reopen().list("p", limit=10).jobs == ()


def test_jobs_are_listed_newest_first_in_pages(store: JobStore) -> None:
    made = [create(store, make_job(f"a{number}")) for number in range(7)]
    create(store, make_job("other", project="q"))
    listed: list[Job] = []
    before: int | None = None
    for size in (3, 3, 1):
        page = store.list("p", limit=3, before=before)
        assert len(page.jobs) == size
        listed += page.jobs
        before = page.next_position
    assert before is None
    assert listed == made[::-1]


def test_a_page_is_not_moved_by_jobs_that_come_or_go(store: JobStore) -> None:
    made = [create(store, make_job(f"a{number}")) for number in range(5)]
    page = store.list("p", limit=2)
    assert page.jobs == (made[4], made[3])
    store.delete(made[4])
    store.delete(made[3])
    create(store, make_job("new"))
    assert store.list("p", limit=10, before=page.next_position).jobs == (made[2], made[1], made[0])


def test_a_full_last_page_is_the_last(store: JobStore) -> None:
    create(store, make_job("a"))
    create(store, make_job("b"))
    assert store.list("p", limit=2).next_position is None


def test_jobs_are_listed_by_state(store: JobStore) -> None:
    made = {state: create(store, make_job(f"a-{state}", state=state)) for state in JobState}
    wanted = {JobState.RUNNING, JobState.FAILED}
    assert {job.state for job in store.list("p", states=wanted, limit=10).jobs} == wanted
    assert store.active() == (made[JobState.RUNNING], made[JobState.CANCELLING])
    assert store.count(JobState.FAILED) == 1


def test_the_oldest_waiting_job_is_next_and_keeps_its_place(store: JobStore) -> None:
    assert store.oldest(JobState.PENDING) is None
    first = create(store, make_job("b"))
    second = create(store, make_job("a"))
    assert store.oldest(JobState.PENDING) == first
    running = store.replace(jobs.start(first, T1))
    assert store.oldest(JobState.PENDING) == second
    again = store.replace(jobs.run_again(running, T1, crashed=True))
    assert store.oldest(JobState.PENDING) == again


CREATE_THEN_DIE = """
import os, signal, sys
from services.influence.sql_job_store import SqlJobStore
from tests.databases import engine_of
from tests.jobs import make_job
store = SqlJobStore(engine_of(sys.argv[1]))
print(store.create(make_job("durable"), request=None, max_pending=9).uid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_created_job_outlives_a_killed_process(url: str, reopen: Reopen) -> None:
    killed = subprocess.run([sys.executable, "-c", CREATE_THEN_DIE, url], capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert reopen().get(make_job("durable").name).uid == killed.stdout.strip()


def test_a_full_disk_is_a_reason_and_loses_nothing(path: Path) -> None:
    store = SqlJobStore(sqlite_engine(path))
    job = create(store, make_job())
    engine = sqlite_engine(path)
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA max_page_count = 20"))
    full = SqlJobStore(engine)
    big = (make_job(f"a{number}", display_name="x" * 5000) for number in range(99))
    message = refused("RESOURCE_PROBLEM", lambda: [create(full, job) for job in big])
    assert "disk is full" in message
    assert full.get(job.name) == job
    full.close()


def test_the_tables_are_those_that_the_migrations_make(url: str) -> None:
    engine = engine_of(url)
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == HEAD
    folder = ScriptDirectory(str(FOLDER))
    assert folder.get_heads() == [HEAD]
    migrate(engine)
    engine.dispose()


def test_a_table_of_before_there_were_migrations_is_kept(url: str, reopen: Reopen) -> None:
    engine = engine_of(url)
    upgrade(engine, "0001")
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE alembic_version"))
    engine.dispose()
    job = create(reopen(), make_job())
    assert reopen().get(job.name) == job


def test_tables_of_a_newer_version_are_used_as_they_are(url: str, reopen: Reopen) -> None:
    """While servers are replaced one after the other, and when the newer version is given up again."""
    kept = create(reopen(), make_job("before"))
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE jobs ADD COLUMN newer TEXT"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    store = reopen()
    made = create(store, make_job("after"))
    assert [store.get(job.name) for job in (kept, made)] == [kept, made]
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
    engine.dispose()


def test_servers_that_start_at_once_migrate_once(url: str) -> None:
    barrier = threading.Barrier(4)

    def open_store(_: int) -> int:
        barrier.wait()
        store = SqlJobStore(engine_of(url))
        count = store.count(JobState.PENDING)
        store.close()
        return count

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_store, range(4))) == [0] * 4


def test_a_database_that_goes_away_is_a_reason_and_comes_back(postgres: Postgres) -> None:
    store = SqlJobStore(postgres_engine(postgres.create(f"jobs_{uuid.uuid4().hex}")))
    job = create(store, make_job("before"))
    postgres.kill()
    message = refused("JOB_TABLE_UNAVAILABLE", lambda: create(store, make_job("meanwhile"), request=REQUEST))
    assert "same request_id is safe" in message
    refused("JOB_TABLE_UNAVAILABLE", lambda: store.get(job.name))
    postgres.start()
    assert store.get(job.name) == job
    made = create(store, make_job("after"), request=REQUEST)
    assert [each.uid for each in store.list("p", limit=9).jobs] == [made.uid, job.uid]
    store.close()

"""What every JobStore promises about leases, queues and age, whatever servers share it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from services.common.errors import ServiceError
from services.influence import job as jobs
from services.influence.job import Job, JobState
from services.influence.job_store import JobStore, StaleJob
from services.influence.job_tables import JOBS, LEASES, DatabaseSeconds
from services.influence.lease import Claim, Lease, LeaseLost, ProgressNote
from services.influence.sql_job_store import SqlJobStore
from tests.databases import engine_of
from tests.jobs import PROGRESS, T0, T1, make_job, make_output

LONG_S = 600.0
NOTE = ProgressNote(progress=PROGRESS, eta_s=7.5, time=T1)


def create(store: JobStore, *names: str, project: str = "p") -> list[Job]:
    return [store.create(make_job(name, project=project), request=None, max_pending=100) for name in names]


def claim(store: JobStore, owner: str = "a", **options: object) -> Claim | None:
    return store.claim(owner, **({"lease_s": LONG_S, "now": T1} | options))  # type: ignore[arg-type]  # by name


def claimed(store: JobStore, owner: str = "a", **options: object) -> Claim:
    found = claim(store, owner, **options)
    assert found is not None
    return found


def expire(url: str, lease: Lease) -> None:
    """Let a lease have ended, as if time had passed."""
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.update(LEASES).where(LEASES.c.uid == lease.uid).values(expires=DatabaseSeconds() - 0.001))
    engine.dispose()


def test_a_claim_starts_the_oldest_waiting_job(store: JobStore) -> None:
    first, _ = create(store, "b", "a")
    found = claimed(store)
    assert found.job == replace(jobs.start(first, T1), version=first.version + 1)
    assert found.lease == Lease(uid=first.uid, owner="a", epoch=1)
    assert not found.crashed
    assert store.get(first.name) == found.job


def test_nothing_is_claimed_where_nothing_waits(store: JobStore) -> None:
    assert claim(store) is None
    create(store, "a")
    claimed(store)
    assert claim(store) is None
    assert store.take_over("b", lease_s=LONG_S) is None


def test_of_many_servers_each_gets_another_job(store: JobStore, reopen: Callable[[], JobStore]) -> None:
    made = create(store, *(f"a{number}" for number in range(12)))
    servers = [store, reopen(), reopen()]

    def take(number: int) -> list[str]:
        found = []
        while (one := claim(servers[number % 3], f"server-{number}")) is not None:
            found.append(one.job.uid)
        return found

    with ThreadPoolExecutor(6) as pool:
        taken = [uid for uids in pool.map(take, range(6)) for uid in uids]
    assert Counter(taken) == Counter(job.uid for job in made)


def test_jobs_that_a_server_cannot_take_are_left(store: JobStore) -> None:
    first, second = create(store, "a", "b")
    assert claimed(store, besides={first.uid}).job.uid == second.uid
    assert claim(store, besides={first.uid}) is None
    assert claimed(store).job.uid == first.uid


def test_the_owner_settles_its_job_and_the_lease_is_gone(store: JobStore) -> None:
    create(store, "a")
    found = claimed(store)
    ended = store.replace(jobs.succeed(found.job, make_output(found.job), T1), lease=found.lease)
    assert store.get(ended.name) == ended
    assert store.look([ended.uid])[ended.uid].lease is None
    with pytest.raises(LeaseLost):
        store.replace(jobs.ask_to_cancel(ended, T1), lease=found.lease)


def test_epochs_only_grow(store: JobStore, url: str) -> None:
    create(store, "a")
    epochs = []
    for _ in range(3):
        found = claimed(store)
        epochs.append(found.lease.epoch)
        expire(url, found.lease)
        taken = store.take_over("b", lease_s=LONG_S)
        assert taken is not None
        epochs.append(taken.lease.epoch)
        store.replace(jobs.run_again(taken.job, T1, crashed=True), lease=taken.lease)
    assert epochs == [1, 2, 3, 4, 5, 6]


def test_a_lease_that_holds_is_not_taken_over(store: JobStore, url: str) -> None:
    create(store, "a")
    found = claimed(store)
    assert store.take_over("b", lease_s=LONG_S) is None
    expire(url, found.lease)
    assert store.renew({found.lease: None}, lease_s=LONG_S) == frozenset()
    assert store.take_over("b", lease_s=LONG_S) is None


def test_a_lease_ends_by_itself(store: JobStore) -> None:
    create(store, "a")
    claimed(store, lease_s=0.2)
    deadline = time.monotonic() + 20
    while (taken := store.take_over("b", lease_s=LONG_S)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert taken.crashed
    assert taken.lease.epoch == 2


@pytest.mark.parametrize("late", ["succeed", "fail", "again", "cancelling"])
def test_what_a_stale_owner_says_is_refused(store: JobStore, url: str, late: str) -> None:
    changes: dict[str, Callable[[Job], Job]] = {
        "succeed": lambda job: jobs.succeed(job, make_output(job), T1),
        "fail": lambda job: jobs.fail(job, jobs.JobError(reason="INTERNAL", message="m"), T1),
        "again": lambda job: jobs.run_again(job, T1, crashed=False),
        "cancelling": lambda job: jobs.ask_to_cancel(job, T1),
    }
    create(store, "a")
    found = claimed(store)
    expire(url, found.lease)
    taken = store.take_over("b", lease_s=LONG_S)
    assert taken is not None
    assert (taken.job, taken.crashed) == (found.job, True)
    with pytest.raises(LeaseLost, match="epoch 1"):
        store.replace(changes[late](found.job), lease=found.lease)
    assert store.renew({found.lease: NOTE}, lease_s=LONG_S) == {found.lease}
    assert store.get(found.job.name) == found.job
    store.replace(changes[late](taken.job), lease=taken.lease)


def test_a_stale_owner_is_refused_also_when_the_job_is_back_in_the_queue_or_gone(store: JobStore, url: str) -> None:
    create(store, "a")
    found = claimed(store)
    expire(url, found.lease)
    taken = store.take_over("b", lease_s=LONG_S)
    assert taken is not None
    waiting = store.replace(jobs.run_again(taken.job, T1, crashed=True), lease=taken.lease)
    with pytest.raises(LeaseLost):
        store.replace(jobs.cancelled(waiting, T1), lease=found.lease)
    ended = store.replace(jobs.cancelled(waiting, T1))
    store.delete(ended)
    with pytest.raises(LeaseLost):
        store.replace(jobs.cancelled(waiting, T1), lease=found.lease)
    assert store.renew({found.lease: None}, lease_s=LONG_S) == {found.lease}


def test_a_lease_is_of_one_job(store: JobStore) -> None:
    create(store, "a", "b")
    one, other = claimed(store), claimed(store)
    with pytest.raises(LeaseLost):
        store.replace(jobs.ask_to_cancel(one.job, T1), lease=other.lease)


def test_a_change_by_an_owner_of_an_old_version_is_refused_but_the_lease_holds(store: JobStore) -> None:
    create(store, "a")
    found = claimed(store)
    cancelling = store.replace(jobs.ask_to_cancel(found.job, T1))
    with pytest.raises(StaleJob):
        store.replace(jobs.succeed(found.job, make_output(found.job), T1), lease=found.lease)
    ended = store.replace(jobs.cancelled(cancelling, T1), lease=found.lease)
    assert ended.state is JobState.CANCELLED


def test_of_an_owner_and_one_that_takes_over_one_wins(
    store: JobStore, url: str, reopen: Callable[[], JobStore]
) -> None:
    """Whichever comes first: the job is settled once, or taken over once, and never both by the same claim."""
    other = reopen()
    for number in range(10):
        create(store, f"a{number}")
        found = claimed(store)
        expire(url, found.lease)
        ended = jobs.succeed(found.job, make_output(found.job), T1)

        def settle(found: Claim = found, ended: Job = ended) -> bool:
            try:
                store.replace(ended, lease=found.lease)
            except LeaseLost:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            settled, taken = pool.submit(settle), pool.submit(other.take_over, "b", lease_s=LONG_S)
        assert settled.result() is (taken.result() is None)
        if (rest := taken.result()) is not None:
            other.replace(jobs.succeed(rest.job, make_output(rest.job), T1), lease=rest.lease)


def test_a_server_takes_back_what_it_does_not_hold_at_once(store: JobStore) -> None:
    create(store, "a", "b")
    kept, left = claimed(store), claimed(store)
    back = store.take_over("a", lease_s=LONG_S, besides={kept.job.uid})
    assert back is not None
    assert (back.job, back.lease, back.crashed) == (left.job, replace(left.lease, epoch=2), False)
    assert store.take_over("a", lease_s=LONG_S, besides={kept.job.uid, left.job.uid}) is None


def test_a_running_job_that_nobody_ever_held_is_taken_over(store: JobStore) -> None:
    job = store.create(make_job(state=JobState.RUNNING), request=None, max_pending=9)
    taken = store.take_over("a", lease_s=LONG_S)
    assert taken is not None
    assert (taken.job, taken.lease.epoch, taken.crashed) == (job, 1, False)


def test_progress_is_seen_by_all_until_the_job_runs_no_more(store: JobStore, reopen: Callable[[], JobStore]) -> None:
    create(store, "a")
    found = claimed(store)
    assert store.renew({found.lease: NOTE}, lease_s=LONG_S) == frozenset()
    shown = jobs.advance(found.job, PROGRESS, 7.5, T1)
    other = reopen()
    assert other.get(shown.name) == shown
    assert other.list("p", limit=9).jobs == other.fetch([shown.uid]) == other.active() == (shown,)
    glance = other.look([shown.uid, "unknown"])
    assert glance.keys() == {shown.uid}
    assert (glance[shown.uid].version, glance[shown.uid].lease, glance[shown.uid].note) == (2, found.lease, NOTE)
    store.renew({found.lease: None}, lease_s=LONG_S)
    assert other.get(shown.name) == shown
    waiting = store.replace(jobs.run_again(found.job, T1, crashed=False), lease=found.lease)
    assert other.get(shown.name) == waiting
    assert other.look([shown.uid])[shown.uid].note is None


def test_the_project_with_the_fewest_running_jobs_is_next(store: JobStore) -> None:
    create(store, "a", "b", "c", project="p")
    create(store, "a", "b", project="q")
    names = [claimed(store).job.name.split("/") for _ in range(5)]
    assert [f"{name[1]}{name[3]}" for name in names] == ["pa", "qa", "pb", "qb", "pc"]


def test_no_more_jobs_of_a_project_run_than_may(store: JobStore, reopen: Callable[[], JobStore]) -> None:
    create(store, *(f"a{number}" for number in range(6)), project="p")
    create(store, "b", project="q")
    servers = [store, reopen()]

    def take(number: int) -> int:
        taken = 0
        while claim(servers[number % 2], f"server-{number}", max_running_per_project=2) is not None:
            taken += 1
        return taken

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, range(4))) == 3
    running = [job for job in store.active() if "/p/" in job.name]
    store.replace(jobs.ask_to_cancel(running[0], T1))
    assert claim(store, max_running_per_project=2) is None, "one that is being cancelled still runs"
    store.replace(jobs.cancelled(store.get(running[0].name), T1))
    assert claim(store, max_running_per_project=2) is not None


def full(call: Callable[[], object]) -> dict[str, str]:
    with pytest.raises(ServiceError) as caught:
        call()
    assert caught.value.reason == "QUEUE_FULL"
    return caught.value.metadata


def test_the_queue_of_a_project_holds_what_it_may(store: JobStore) -> None:
    limits = {"max_pending": 100, "max_pending_per_project": 2}
    for name in ("a", "b"):
        store.create(make_job(name), request=None, **limits)
    metadata = full(lambda: store.create(make_job("c"), request=None, **limits))
    assert metadata == {"pending": "2", "limit": "2", "project": "p", "retry_after_s": "5.0"}
    full(lambda: store.check_room(make_job("c"), **limits))
    store.create(make_job("a", project="q"), request=None, **limits)
    claimed(store)
    store.create(make_job("c"), request=None, **limits)


def test_when_to_try_again_follows_from_how_long_jobs_take(store: JobStore, url: str) -> None:
    for name, seconds in (("a", 30.0), ("b", 50.0)):
        create(store, name)
        found = claimed(store)
        store.replace(jobs.fail(found.job, jobs.JobError(reason="INTERNAL", message=""), T1), lease=found.lease)
        engine = engine_of(url)
        with engine.begin() as connection:
            took = sa.update(JOBS).where(JOBS.c.uid == found.job.uid).values(ended_at=JOBS.c.started_at + seconds)
            connection.execute(took)
        engine.dispose()
    create(store, "c", "d", "e", "waits")
    for _ in range(2):
        claimed(store)
    metadata = full(lambda: store.create(make_job("f"), request=None, max_pending=2))
    assert float(metadata["retry_after_s"]) == pytest.approx(20.0, abs=0.01)


def test_jobs_are_old_by_the_clock_of_the_database(store: JobStore, url: str) -> None:
    long_ago = T0 - timedelta(days=9999)
    first, second, _ = create(store, "a", "b", "waits")
    for job in (second, first):
        store.replace(jobs.cancelled(job, long_ago))
    assert store.ended_before(60, limit=9) == ()
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.update(JOBS).values(ended_at=JOBS.c.ended_at - 100))
    engine.dispose()
    assert [job.uid for job in store.ended_before(60, limit=9)] == [second.uid, first.uid]
    assert [job.uid for job in store.ended_before(60, limit=1)] == [second.uid]
    assert [job.uid for job in store.ended_before(60, limit=9, besides={second.uid})] == [first.uid]


def test_a_database_of_the_version_before_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    script = Path(__file__).with_name("jobs_0001.sql").read_text()
    engine = engine_of(f"sqlite:///{path}")
    with engine.connect() as connection:
        raw = connection.connection.driver_connection
        assert raw is not None
        raw.executescript(script)
    engine.dispose()
    store = SqlJobStore(engine_of(f"sqlite:///{path}"))
    listed = {job.name.rpartition("/")[2]: job for job in store.list("p", limit=9).jobs}
    assert {name: job.state.value for name, job in listed.items()} == {
        "done": "succeeded", "waits": "pending", "running": "running", "stopping": "cancelling"
    }  # fmt: skip
    assert [job.name.rpartition("/")[2] for job in store.ended_before(60, limit=9)] == ["done"]
    taken = [store.take_over("a", lease_s=LONG_S, besides=besides) for besides in ((), {listed["running"].uid})]
    assert [(claim.job.uid, claim.crashed) for claim in taken if claim] == [
        (listed["running"].uid, False),
        (listed["stopping"].uid, False),
    ]
    assert claimed(store).job.uid == listed["waits"].uid
    store.close()


def test_servers_that_all_work_at_once_do_not_refuse_each_other(
    store: JobStore, reopen: Callable[[], JobStore]
) -> None:
    servers, rounds = [store, reopen(), reopen()], 8
    ended: list[str] = []

    def make(number: int) -> int:
        create(servers[number % 3], *(f"a{number}-{each}" for each in range(rounds)), project=f"p{number}")
        return rounds

    def work(number: int) -> None:
        server, deadline = servers[number % 3], time.monotonic() + 60
        while len(ended) < 6 * rounds and time.monotonic() < deadline:
            if (found := claim(server, f"server-{number}", max_running_per_project=3)) is not None:
                assert server.renew({found.lease: NOTE}, lease_s=LONG_S) == frozenset()
                server.replace(jobs.succeed(found.job, make_output(found.job), T1), lease=found.lease)
                ended.append(found.job.uid)

    with ThreadPoolExecutor(9) as pool:
        workers, makers = [pool.submit(work, number) for number in range(3)], pool.map(make, range(6))
        assert sum(makers) == 6 * rounds
    assert [worker.result() for worker in workers] == [None] * 3
    assert len(set(ended)) == len(ended) == 6 * rounds

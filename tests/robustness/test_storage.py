"""Real jobs while the object store has a bad day: late, or failed with the reason, and never with half a result.

Numbers are those of the faults in README.md.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.settings import StorageSettings
from services.influence.messages import FailedMessage
from services.influence.spec import RankSpec
from tests.objects import write_keys
from tests.robustness.s3_world import TRAIN, Outage, S3World, Tables, is_for
from tests.s3_proxy import Fault, Request, S3Proxy
from tests.weed import ADMIN, NEXT_ADMIN, Keys, Weed
from tests.worker_process import WorkerProcess

OUTAGE_S = 9.0
"""Longer than the store repeats a request by itself."""
WEIGHTS = "weights.safetensors"


@pytest.fixture(scope="module")
def world(weed: Weed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3World]:
    with S3Proxy(weed) as proxy:
        yield S3World(tmp_path_factory.mktemp("s3") / "world", weed, proxy)


@pytest.fixture(scope="module")
def undisturbed(world: S3World) -> Tables:
    """What the job writes on a good day."""
    with world.job() as worker:
        return world.tables(worker)


def failure(worker: WorkerProcess) -> FailedMessage:
    assert worker.wait(timeout=120) == 0, worker.log()
    assert isinstance(worker.last, FailedMessage), worker.last
    return worker.last


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        pytest.param(Fault(status=503), OUTAGE_S, id="503"),
        pytest.param(Fault(status=503), 60.0, id="503 for a minute", marks=pytest.mark.slow),
        pytest.param(Fault(drop=True), OUTAGE_S, id="reset", marks=pytest.mark.slow),
    ],
)
def test_an_outage_makes_a_job_late_and_changes_nothing(
    world: S3World, undisturbed: Tables, fault: Fault, seconds: float
) -> None:
    """10."""
    with world.job() as worker:
        outage = world.proxy.rule = Outage(fault, method="GET", end="train/0030.png", seconds=seconds)
        assert world.tables(worker) == undisturbed
    assert outage.begun.is_set()
    assert "asked again in" in worker.log()


@pytest.mark.slow
def test_a_store_that_stays_away_fails_the_job_with_the_reason(world: S3World) -> None:
    """10."""
    with world.job(patience_s=1.0) as worker:
        world.proxy.rule = Outage(Fault(status=503), method="GET", end="train/0030.png", seconds=3600)
        assert failure(worker).reason == "STORAGE_UNAVAILABLE"
    assert world.left(worker.request) == []


def test_a_job_that_waits_for_the_store_can_be_cancelled(world: S3World) -> None:
    """10."""
    with world.job() as worker:
        outage = world.proxy.rule = Outage(Fault(drop=True), method="GET", end="train/0030.png", seconds=3600)
        assert outage.begun.wait(60)
        worker.process.terminate()
        assert worker.wait() == 0
        assert worker.last.type == "cancelled"


def test_bodies_that_break_everywhere_change_nothing(world: S3World, undisturbed: Tables) -> None:
    """11."""
    rng, lock, broken = random.Random(11), threading.Lock(), Counter[str]()

    def breaking(request: Request) -> Fault:
        """The first two answers with each object break off."""
        name = request.path.partition("?")[0]
        with lock:
            if request.method != "GET" or "." not in name or broken[name] == 2:
                return Fault()
            broken[name] += 1
            return Fault(cut_after=rng.randrange(100))

    with world.job() as worker:
        world.proxy.rule = breaking
        assert world.tables(worker) == undisturbed
    assert sum(broken.values()) > 2 * TRAIN


@pytest.mark.parametrize("name", ["train.jsonl", WEIGHTS])
def test_an_input_that_is_replaced_while_it_is_read_is_not_read_as_a_mixture(world: S3World, name: str) -> None:
    """12."""
    uri = world.place.uri(name if name != WEIGHTS else f"model/{name}")
    before = world.store.read(uri, max_bytes=1 << 20)
    with world.job() as worker:
        world.proxy.faults.append(
            Fault(path=name, cut_after=100, then=lambda: world.store.put(uri, before[:100] + before[100:][::-1]))
        )
        try:
            found = failure(worker)
        finally:
            world.store.put(uri, before)
    assert (found.reason, found.metadata["uri"]) == ("OBJECT_CHANGED", uri)
    assert world.left(worker.request) == []


@pytest.mark.parametrize("how", ["flipped on the way", "cut off where it lies"])
def test_damaged_weights_are_told_and_fetched_once(world: S3World, how: str) -> None:
    """13."""
    uri = world.place.uri(f"model/{WEIGHTS}")
    before = world.store.read(uri, max_bytes=1 << 20)
    asked = world.asked("GET", WEIGHTS)
    with world.job() as worker:
        if how == "flipped on the way":
            world.proxy.rule = lambda request: Fault(flip=is_for(request, "GET", WEIGHTS))
        else:
            world.store.put(uri, before[:-10])
        try:
            found = failure(worker)
        finally:
            world.store.put(uri, before)
    assert (found.reason, found.metadata["uri"]) == ("OBJECT_DIGEST_MISMATCH", uri)
    assert world.asked("GET", WEIGHTS) == asked + 1
    assert world.left(worker.request) == []


def test_a_damaged_image_is_put_aside_and_fetched_once(world: S3World) -> None:
    """13."""
    asked = world.asked("GET", "train/0030.png")
    with world.job(tolerant(world)) as worker:
        world.proxy.rule = lambda request: Fault(flip=is_for(request, "GET", "train/0030.png"))
        world.tables(worker)
        result = world.result(worker.last)  # type: ignore[arg-type]  # checked there
    (row,) = result.rows("quarantine")
    assert (row["sample_id"], row["reason"]) == ("train-0030", "OBJECT_DIGEST_MISMATCH")
    assert len(result.ranking()) == TRAIN - 1
    assert world.asked("GET", "train/0030.png") == asked + 1


def tolerant(world: S3World) -> RankSpec:
    """The job, which puts up with some samples that cannot be read."""
    return world.spec.model_copy(update={"run": world.spec.run.model_copy(update={"max_quarantined_fraction": 0.1})})


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(lose_answer=True), id="answer lost"),
        pytest.param(Fault(status=503), id="refused", marks=pytest.mark.slow),
    ],
)
def test_a_commit_that_meets_an_outage_is_one_result(world: S3World, undisturbed: Tables, fault: Fault) -> None:
    """14. Also when the commit itself got through, and only its answer did not."""
    with world.job() as worker:
        outage = world.proxy.rule = Outage(fault, method="PUT", end="MANIFEST.json", seconds=OUTAGE_S)
        assert outage.begun.wait(60)
        if not fault.lose_answer:
            assert "MANIFEST.json" not in world.left(worker.request)
        assert worker.process.poll() is None
        assert world.tables(worker) == undisturbed
    assert sorted(world.left(worker.request)) == ["MANIFEST.json", *(f"attempt-1/{name}.parquet" for name in TABLES)]


TABLES = ("pairs", "quarantine", "ranking")


class Expiry:
    """A rule: keys expire when an object is asked for, and are refused from then on.

    Args:
        expired: Those that do.
        keys_file: Where the new ones are written.
        early: They are written before the old ones are refused, and not a while after.
    """

    def __init__(self, expired: Keys, keys_file: Path, *, early: bool) -> None:
        self._expired, self._keys_file, self._early = expired, keys_file, early
        self._begun, self._lock = False, threading.Lock()
        self.refused = 0

    def __call__(self, request: Request) -> Fault:
        with self._lock:
            if not self._begun and is_for(request, "GET", "train/0030.png"):
                self._begun = True
                timer = threading.Timer(0 if self._early else 2.0, write_keys, [self._keys_file, NEXT_ADMIN])
                timer.start()
                if self._early:
                    timer.join()
            if not self._begun or request.access_key != self._expired.access_key:
                return Fault()
            self.refused += 1
            return Fault(status=400, code="ExpiredToken")


@pytest.mark.parametrize(
    "early",
    [pytest.param(False, id="renewed after"), pytest.param(True, id="renewed before", marks=pytest.mark.slow)],
)
def test_keys_that_expire_in_the_middle_are_renewed(
    world: S3World, undisturbed: Tables, tmp_path: Path, *, early: bool
) -> None:
    """15."""
    keys_file = tmp_path / "credentials"
    write_keys(keys_file, ADMIN)
    storage = StorageSettings.model_validate(
        {"s3_endpoint": world.proxy.endpoint, "s3_secure": False, "s3_credentials_file": keys_file}
    )
    with world.job(storage=storage) as worker:
        expiry = world.proxy.rule = Expiry(ADMIN, keys_file, early=early)
        assert world.tables(worker) == undisturbed
    threads = max(8, os.cpu_count() or 1)
    assert 0 < expiry.refused <= threads if early else expiry.refused > 0

"""Work that goes on after a call stays within the places of its project, whatever a manifest names."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from services.common.access.places import Places, open_policy
from services.common.errors import ServiceError
from services.common.server_settings import ServerSettings
from services.common.storage.confined import ConfinedStore
from services.influence.confined_runner import ConfinedRunner
from services.influence.job_folder import read_request, write_request
from services.influence.local_runner import LocalRunner
from services.influence.messages import FailedMessage
from services.influence.spec import Artifact, RankSpec, RunOptions
from tests.job_world import JobWorld, picture
from tests.secured import Secured
from tests.stores import local_place
from tests.worker_process import WorkerProcess


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    return JobWorld(tmp_path / "world")


def mine(world: JobWorld) -> tuple[str, ...]:
    return tuple(world.place.uri(f"{name}/") for name in ("train", "test", "model", "lists"))


def rank_spec(world: JobWorld, train: Artifact) -> RankSpec:
    test = world.manifest("lists/test.jsonl", world.samples("test", 18))
    options = RunOptions(max_quarantined_fraction=0.2)
    return RankSpec(model=world.bundle(), train_manifest=train, test_manifest=test, run=options)


def test_a_job_reads_no_image_of_another_project_and_writes_its_own_results(world: JobWorld, tmp_path: Path) -> None:
    rows = world.samples("train", 30)
    theirs = {"id": "stolen", "uri": world.put("theirs/secret.png", picture(0, seed=1)), "label": "ant"}
    request = world.request(rank_spec(world, world.manifest("lists/train.jsonl", [*rows, theirs])), places=mine(world))
    with WorkerProcess(tmp_path / "job", request, world.place.settings) as worker:
        assert worker.wait() == 0, worker.log()
    (row,) = world.result(worker.last).rows("quarantine")  # type: ignore[arg-type]  # the last message is one
    assert (row["sample_id"], row["reason"]) == ("stolen", "URI_NOT_ALLOWED")


def test_a_job_whose_input_lies_elsewhere_fails(world: JobWorld, tmp_path: Path) -> None:
    """Its project may have lost the place since the job was created."""
    train = world.manifest("theirs/train.jsonl", world.samples("train", 30))
    request = world.request(rank_spec(world, train), places=mine(world))
    with WorkerProcess(tmp_path / "job", request, world.place.settings) as worker:
        assert worker.wait() == 0
    assert isinstance(worker.last, FailedMessage)
    assert worker.last.reason == "URI_NOT_ALLOWED"


async def test_a_job_is_told_the_places_that_the_policy_has_when_it_starts(world: JobWorld, tmp_path: Path) -> None:
    secured = Secured(tmp_path / "secured")
    policy = open_policy(ServerSettings.model_validate(secured.settings()))
    command = (sys.executable, "-c", "import sys")
    runner = ConfinedRunner(LocalRunner(environ=os.environ, command=command), Places(policy))
    folder = tmp_path / "job"
    folder.mkdir()
    write_request(folder, world.request(rank_spec(world, world.manifest("lists/train.jsonl", []))))
    for places, expected in (
        ({}, ()),
        ({"p": {"inputs": ["s3://in/"], "outputs": ["s3://out/"]}}, ("s3://in/", "s3://out/")),
    ):
        secured.policy(**places)
        report = await runner.run(folder, lambda _message: None)
        assert report.exit_code == 0
        assert read_request(folder).places == expected
    open_to_all = ConfinedRunner(LocalRunner(environ=os.environ, command=command), Places())
    await open_to_all.run(folder, lambda _message: None)
    assert read_request(folder).places is None


def test_a_confined_store_opens_what_is_below_its_places_and_nothing_else(tmp_path: Path) -> None:
    place = local_place(tmp_path)
    inside, outside = place.uri("mine/a"), place.uri("minefield/a")
    for uri in (inside, outside):
        place.store.put(uri, b"data")
    store = ConfinedStore(place.store, (place.uri("mine/"),))
    assert store.head(inside).size == 4
    assert store.read(inside, max_bytes=10) == b"data"
    assert [found.uri for found in store.list(place.uri("mine/"))] == [inside]
    for attempt in (
        lambda: store.head(outside),
        lambda: store.open(outside),
        lambda: store.read(outside, max_bytes=10),
        lambda: store.download(outside, tmp_path / "copy", max_bytes=10),
        lambda: store.put(outside, b"new"),
        lambda: store.list(place.uri("mine")),
        lambda: store.delete(outside),
        lambda: store.read(place.uri("mine/../minefield/a"), max_bytes=10),
    ):
        with pytest.raises(ServiceError) as caught:
            attempt()
        assert caught.value.reason == "URI_NOT_ALLOWED"
    assert place.store.read(outside, max_bytes=10) == b"data"

"""The job process as a process: messages, cancel, death of the parent, kill and restart."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from services.influence.messages import (
    CancelledMessage,
    FailedMessage,
    Message,
    ProgressMessage,
    SucceededMessage,
)
from services.influence.spec import InfluenceOptions, JobRequest, PublishedStepsOptions, RankSpec
from services.influence.worker.feature_shard import unpack
from services.influence.worker.process import EXIT_ORPHANED
from tests.job_world import CLASSES, JobWorld, png
from tests.worker_process import WorkerProcess

SLOW = InfluenceOptions(step=PublishedStepsOptions(steps=100_000, learning_rate=1e-9))
"""One query takes many seconds, and looks for nothing in between."""


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    return JobWorld(tmp_path / "world")


def start(
    world: JobWorld, tmp_path: Path, request: JobRequest, *, environ: dict[str, str] | None = None
) -> WorkerProcess:
    return WorkerProcess(tmp_path / "job", request, world.place.settings, environ=environ)


def in_stage(name: str) -> Callable[[Message], bool]:
    return lambda message: isinstance(message, ProgressMessage) and message.stage == name


def test_a_job_from_start_to_end(world: JobWorld, tmp_path: Path) -> None:
    with start(world, tmp_path, world.request(world.rank_spec())) as worker:
        assert worker.wait() == 0
    assert isinstance(worker.last, SucceededMessage)
    stages = list(dict.fromkeys(each.stage for each in worker.messages if isinstance(each, ProgressMessage)))
    assert stages == ["inputs", "features", "confusions", "influence", "results"]
    assert world.result(worker.last).figures["train_samples"] == 30
    assert not (tmp_path / "job" / "scratch").exists()
    assert worker.log() == ""


def test_a_hostile_pickle_runs_nothing(world: JobWorld, tmp_path: Path) -> None:
    marker = tmp_path / "pwned"
    spec = world.rank_spec()
    folder = world.folder / "objects" / "model"
    # GLOBAL os.system, MARK, the command, TUPLE, REDUCE, STOP
    (folder / "evil.pth").write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    bundle = json.loads((folder / "model.json").read_text())
    digest = hashlib.sha256((folder / "evil.pth").read_bytes()).hexdigest()
    bundle["weights"] = {"file": "evil.pth", "sha256": digest, "format": "state_dict"}
    (folder / "model.json").write_text(json.dumps(bundle))
    with start(world, tmp_path, world.request(spec)) as worker:
        assert worker.wait() == 0
    assert isinstance(worker.last, FailedMessage)
    assert worker.last.reason == "CHECKPOINT_UNSAFE"
    assert "evil.pth" in worker.last.message
    assert json.loads(worker.log())["level"] == "WARNING"
    assert not marker.exists()


def test_sigterm_cancels_while_images_are_read(world: JobWorld, tmp_path: Path) -> None:
    request = world.request(large_spec(world, 400))
    with start(world, tmp_path, request) as worker:
        worker.wait_for(in_stage("features"))
        asked = time.monotonic()
        worker.process.terminate()
        assert worker.wait() == 0
        assert time.monotonic() - asked < 5
    assert worker.last == CancelledMessage()
    assert results(world, request) == []
    assert not (tmp_path / "job" / "scratch").exists()


def test_sigterm_cancels_a_long_computation(world: JobWorld, tmp_path: Path) -> None:
    with start(world, tmp_path, world.request(world.rank_spec(influence=SLOW))) as worker:
        worker.wait_for(in_stage("influence"))
        asked = time.monotonic()
        worker.process.terminate()
        assert worker.wait() == 0
        assert time.monotonic() - asked < 5
    assert worker.last == CancelledMessage()
    assert not (tmp_path / "job" / "scratch").exists()


def test_the_death_of_the_parent_ends_it_and_the_next_attempt_waits_for_that(world: JobWorld, tmp_path: Path) -> None:
    slow = world.request(world.rank_spec(influence=SLOW))
    with start(world, tmp_path, slow) as first:
        first.wait_for(in_stage("influence"))
        quick = world.request(world.rank_spec(), attempt=2)
        with start(world, tmp_path, quick) as second:
            wait_until(lambda: has_open(second, tmp_path / "job" / "lock"))
            assert second.messages == []
            left = time.monotonic()
            first.close_stdin()
            assert first.wait() == EXIT_ORPHANED
            assert time.monotonic() - left < 5
            assert second.wait() == 0
    assert isinstance(second.last, SucceededMessage)
    assert not isinstance(first.last, SucceededMessage | FailedMessage | CancelledMessage)


def test_a_killed_job_continues_from_the_features_it_has_stored(world: JobWorld, tmp_path: Path) -> None:
    spec = large_spec(world, 400)
    request = world.request(spec)
    environ = {"EIF_INFLUENCE_CACHE_SHARD_SAMPLES": "64"}
    with start(world, tmp_path, request, environ=environ) as worker:
        wait_until(lambda: bool(shards(world)))
        worker.process.kill()
        worker.wait()
    assert results(world, request) == []
    kept = forget_stored_images(world, tmp_path)
    assert 0 < len(kept) < 400
    again = request.model_copy(update={"attempt": 2})
    with start(world, tmp_path, again, environ=environ) as worker:
        assert worker.wait() == 0
    result = world.result(worker.last)  # type: ignore[arg-type]  # checked there
    assert result.manifest.attempt == 2
    assert result.rows("quarantine") == []  # the images that are gone were not asked for
    assert result.figures["feature_cache_hits"] == len(kept)
    assert result.figures["feature_cache_misses"] == 400 + 6 - len(kept)


def large_spec(world: JobWorld, count: int) -> RankSpec:
    """Images that take a while to decode: one picture, told apart by bytes after its end."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    data, rows = png(noise), []
    for number in range(count):
        content = data + number.to_bytes(4, "big")
        uri = world.put(f"large/{number:04d}.png", content)
        label = CLASSES[number % len(CLASSES)]
        rows.append({"id": f"l{number}", "uri": uri, "label": label, "sha256": hashlib.sha256(content).hexdigest()})
    return world.rank_spec(test=6, train_manifest=world.manifest("large.jsonl", rows))


def shards(world: JobWorld) -> list[str]:
    return [info.uri for info in world.store.list(world.place.uri("out/cache/features/"))]


def results(world: JobWorld, request: JobRequest) -> list[str]:
    return [info.uri for info in world.store.list(world.place.uri(f"out/{request.uid}/"))]


def forget_stored_images(world: JobWorld, tmp_path: Path) -> list[str]:
    """Delete the images whose features are stored; returns their digests."""
    kept: list[str] = []
    for uri in shards(world):
        path = tmp_path / "shard.safetensors"
        path.write_bytes(world.store.read(uri, max_bytes=1 << 20))
        content = unpack(path, feature_dim=10)
        assert content is not None
        kept += [bytes(digest).hex() for digest in content[0]]
    for image in (world.folder / "objects" / "large").iterdir():
        if hashlib.sha256(image.read_bytes()).hexdigest() in kept:
            image.unlink()
    return kept


def has_open(worker: WorkerProcess, path: Path) -> bool:
    """Whether the process holds the file open now; descriptors come and go while this looks."""
    for file in Path(f"/proc/{worker.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if file.readlink() == path:
                return True
    return False


def wait_until(condition: Callable[[], bool], *, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)

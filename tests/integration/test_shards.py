"""Results depend on neither the number nor the size of the shards; what breaks a shard ends the job, after tries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.influence.messages import FailedMessage
from tests import plugin
from tests.conftest import REPO
from tests.job_world import SETTINGS, SIDE, JobWorld, png
from tests.worker_process import WorkerProcess

TRAIN = 200


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    return JobWorld(tmp_path / "world")


def rows(world: JobWorld, *, digests: bool) -> list[dict[str, Any]]:
    """Samples of which a few are broken, one has an image that another has, and one is in no shard of a smaller size."""
    samples = world.samples("train", TRAIN, digests=digests)
    for row in (3, 64, 130):
        samples[row]["uri"] = world.put(f"broken/{row}.png", b"no image")
        samples[row].pop("sha256", None)
    samples[100]["uri"] = samples[7]["uri"]
    samples[100].pop("sha256", None)
    return samples


@pytest.mark.parametrize("digests", [True, False])
def test_tables_are_the_same_bytes_for_every_size_of_shards(world: JobWorld, digests: bool) -> None:
    manifest = world.manifest("train.jsonl", rows(world, digests=digests))
    spec = world.rank_spec(train_manifest=manifest, run={"max_quarantined_fraction": 0.5})
    found = []
    for size in (1, 65, 128, 1024):
        settings = SETTINGS.model_copy(
            update={"cache_shard_samples": size, "cache_uri_prefix": world.place.uri(f"cache-{size}")}
        )
        result = world.result(world.run(world.request(spec), settings=settings))
        assert result.figures["quarantined"] == 3
        found.append({name: result.bytes(name) for name in result.manifest.tables})
    assert all(tables == found[0] for tables in found[1:])


def test_a_shard_that_breaks_is_tried_three_times_and_named(world: JobWorld, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    samples = world.samples("train", TRAIN)
    white = png(np.full((SIDE, SIDE), 255, dtype=np.uint8))
    samples[70] = {"id": "white", "uri": world.put("white.png", white), "label": "ant"}
    model = world.bundle("poison", architecture="poison", options={"above": 0.99, "notes": str(notes)})
    spec = world.rank_spec(train_manifest=world.manifest("train.jsonl", samples), model=model)
    environ = {
        "PYTHONPATH": os.pathsep.join([str(REPO), plugin.install(tmp_path)]),
        "EIF_INFLUENCE_CACHE_SHARD_SAMPLES": "64",
    }
    with WorkerProcess(tmp_path / "job", world.request(spec), world.place.settings, environ=environ) as worker:
        assert worker.wait() == 0
    assert isinstance(worker.last, FailedMessage)
    assert worker.last.reason == "INTERNAL"
    assert "shard of 64 train samples, 'train-0064' to 'train-0127' failed 3 times" in worker.last.message
    assert "s3cret" not in worker.last.message
    assert len(list(notes.iterdir())) == 3


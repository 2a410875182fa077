"""Results depend on neither the number nor the size of the shards; what breaks a shard ends the job, after tries."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eif_engine.config import Metric
from eif_engine.losses.settings import PmlSettings
from services.influence.messages import FailedMessage, TotalsMessage
from services.influence.spec import (
    FirstOrderOptions,
    InfluenceOptions,
    QuerySelection,
    RankSpec,
    RunOptions,
    UnitStepsOptions,
)
from tests import plugin
from tests.conftest import REPO
from tests.job_world import SETTINGS, SIDE, JobWorld, Result, png
from tests.worker_process import WorkerProcess

TRAIN = 200


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    return JobWorld(tmp_path / "world")


def rows(world: JobWorld, *, digests: bool) -> list[dict[str, Any]]:
    """Samples of which a few are broken, and one has an image that another has."""
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


OPTIONS = {
    "unit steps": InfluenceOptions(),
    "first order": InfluenceOptions(step=FirstOrderOptions()),
    "curvature": InfluenceOptions(metric=Metric.KFAC),
}


def scored(world: JobWorld, spec: RankSpec, size: int, cache: str) -> Result:
    """A job whose scores are cut so; the same cache finds what was kept there."""
    update = {"score_shard_samples": size, "cache_uri_prefix": world.place.uri(cache)}
    return world.result(world.run(world.request(spec), settings=SETTINGS.model_copy(update=update)))


def tables(result: Result) -> dict[str, bytes]:
    return {name: result.bytes(name) for name in result.manifest.tables}


@pytest.mark.parametrize(
    ("options", "top_k"), [("unit steps", 3), ("unit steps", 1000), ("first order", 3), ("curvature", 3)]
)
def test_rankings_are_the_same_bytes_for_every_number_of_score_shards(
    world: JobWorld, options: str, top_k: int
) -> None:
    spec = world.rank_spec(train=700, influence=OPTIONS[options], top_k=top_k)
    found = [tables(scored(world, spec, size, f"cache-{size}")) for size in (1, 300, 10_000)]
    assert found[0] == found[2]
    assert found[1] == found[2]
    kept = [info.uri for info in world.store.list(world.place.uri("cache-1/scores/"))]
    assert len(kept) == (0 if options == "curvature" else 3)  # in tiles of 256 samples
    assert not list(world.store.list(world.place.uri("cache-10000/scores/")))


def test_a_loss_with_a_bank_of_all_samples_is_scored_in_one_piece(world: JobWorld) -> None:
    model = world.bundle(loss=PmlSettings(class_="ContrastiveLoss"), drop=["proxies"])
    spec = world.rank_spec(train=300, model=model, top_k=3)
    assert tables(scored(world, spec, 1, "one")) == tables(scored(world, spec, 10_000, "other"))


def skipped(world: JobWorld) -> int:
    """Shards that the last job found done."""
    told = [message for message in world.sent if isinstance(message, TotalsMessage)]
    return told[-1].shard_attempts.get("skipped", 0)


def test_scores_that_were_kept_are_used_and_damaged_ones_are_not(world: JobWorld) -> None:
    spec = world.rank_spec(train=700, top_k=3)
    first = tables(scored(world, spec, 1, "cache"))
    assert skipped(world) == 0
    assert tables(scored(world, spec, 1, "cache")) == first
    assert skipped(world) == 3
    kept = sorted(info.uri for info in world.store.list(world.place.uri("cache/scores/")))
    data = bytearray(world.store.read(kept[0], max_bytes=1 << 20))
    data[-1] ^= 1
    world.store.put(kept[0], bytes(data))
    world.store.put(kept[1], b"no scores")
    assert tables(scored(world, spec, 1, "cache")) == first
    assert skipped(world) == 1
    assert tables(scored(world, spec, 1, "cache")) == first
    assert skipped(world) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"top_k": 4},
        {"influence": InfluenceOptions(step=UnitStepsOptions(radius=0.1))},
        {"queries": QuerySelection(max_queries=2)},
        {"run": RunOptions(seed=1)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_scores_of_other_options_are_others(world: JobWorld, change: dict[str, Any]) -> None:
    spec = world.rank_spec(train=300, top_k=3)
    scored(world, spec, 1, "cache")
    scored(world, spec.model_copy(update=change), 1, "cache")
    assert skipped(world) == 0

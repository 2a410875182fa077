"""Rank and relabel jobs from manifests to results, on real files, in this process."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eif_engine.config import (
    FirstOrder,
    InfluenceConfig,
    Metric,
    NeighborSpace,
    PublishedSteps,
    QueryKind,
    RelabelConfig,
    UnitStep,
)
from eif_engine.data.images import decode_image
from eif_engine.jobs.queries import confusions, pair_query
from eif_engine.jobs.rank import order, rank
from eif_engine.jobs.relabel import suggest
from eif_engine.losses.pml_bank import with_bank
from eif_engine.losses.settings import PmlSettings, SoftTripleSettings
from eif_engine.models.checkpoint import load_model
from eif_engine.models.loaded import LoadedModel
from services.common.storage.base import ObjectInfo, ObjectStore
from services.common.storage.router import RoutedStore
from services.influence.messages import CancelledMessage, FailedMessage, SucceededMessage
from services.influence.result_manifest import ResultManifest
from services.influence.spec import (
    Artifact,
    Device,
    FirstOrderOptions,
    HarmfulSamples,
    InfluenceOptions,
    PublishedStepsOptions,
    QuerySelection,
    RankSpec,
    RelabelSpec,
    RunOptions,
    SamplePair,
    SampleSelection,
    UnitStepsOptions,
)
from services.influence.worker.cancellation import Cancellation
from services.influence.worker.stages import run_job
from tests.job_world import CLASSES, SETTINGS, JobWorld, Result


@pytest.fixture
def world(tmp_path: Path) -> JobWorld:
    return JobWorld(tmp_path / "world")


class WatchedStore(RoutedStore):
    """The real store, with a look at every read of an image and every write."""

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__({"file": inner})
        self.images_read: list[str] = []
        self.on_image: Callable[[int], None] = lambda _count: None
        self.on_put: Callable[[str], None] = lambda _uri: None

    def read(self, uri: str, *, max_bytes: int, sha256: str | None = None) -> bytes:
        if uri.endswith(".png"):
            self.images_read.append(uri)
            self.on_image(len(self.images_read))
        return super().read(uri, max_bytes=max_bytes, sha256=sha256)

    def put(self, uri: str, data: bytes | Path, *, if_absent: bool = False) -> ObjectInfo:
        self.on_put(uri)
        return super().put(uri, data, if_absent=if_absent)


def ranked(world: JobWorld, spec: RankSpec, **options: Any) -> Result:
    return world.result(world.run(world.request(spec), **options))


def relabeled(world: JobWorld, spec: RelabelSpec) -> Result:
    return world.result(world.run(world.request(spec)))


def local_model(world: JobWorld) -> LoadedModel:
    return load_model(world.folder / "objects" / "model")


def features_of(world: JobWorld, model: LoadedModel, split: str) -> torch.Tensor:
    """Features of a split by the shortest way there is: every image at once."""
    paths = sorted((world.folder / "objects" / split).iterdir())
    pixels = [model.preprocessing.apply(decode_image(path.read_bytes())) for path in paths]
    with torch.inference_mode():
        features: torch.Tensor = model.backbone(torch.from_numpy(np.stack(pixels)))
    return features.clone()


def labels_of(count: int) -> list[str]:
    return [CLASSES[number % len(CLASSES)] for number in range(count)]


def ids_of(split: str, count: int) -> list[str]:
    return [f"{split}-{number:04d}" for number in range(count)]


DEFAULT = InfluenceConfig()


def expected_scores(
    world: JobWorld, train: int, test: int, config: InfluenceConfig = DEFAULT
) -> dict[str, NDArray[np.float64]]:
    """Scores by query id, straight from the engine."""
    model = local_model(world)
    test_MF = features_of(world, model, "test")
    head = model.head.to(device="cpu", dtype=torch.float64)
    pairs = confusions(head.embed(test_MF.double()), labels_of(test))
    labels = torch.tensor([number % len(CLASSES) for number in range(train)])
    train_NF = features_of(world, model, "train")
    found = rank(
        head=model.head,
        loss=with_bank(model.loss, model.head, train_NF, labels),
        train_features_NF=train_NF,
        train_labels_N=labels,
        test_features_MF=test_MF,
        queries=[pair_query(pair, ids_of("test", test), QueryKind.CONFUSION_PAIRS) for pair in pairs],
        config=config,
    )
    return {query.query_id: scores for query, scores in found}


@pytest.mark.parametrize(
    ("options", "config"),
    [
        (
            InfluenceOptions(step=UnitStepsOptions(radius=0.6, steps=5), metric=Metric.KFAC, damping=0.1),
            InfluenceConfig(step=UnitStep(radius=0.6, steps=5), metric=Metric.KFAC, damping=0.1),
        ),
        (InfluenceOptions(step=FirstOrderOptions(radius=0.5)), InfluenceConfig(step=FirstOrder(radius=0.5))),
        (
            InfluenceOptions(step=PublishedStepsOptions(steps=3, learning_rate=0.1), normalize=False),
            InfluenceConfig(step=PublishedSteps(steps=3, learning_rate=0.1), normalize=False),
        ),
    ],
    ids=["kfac-steps", "first-order", "published"],
)
def test_ways_of_theta_reach_the_engine(world: JobWorld, options: InfluenceOptions, config: InfluenceConfig) -> None:
    result = ranked(world, world.rank_spec(train=30, test=18, influence=options))
    ids = ids_of("train", 30)
    for query_id, scores in expected_scores(world, 30, 18, config).items():
        rows, places = result.ranking(query_id), order(scores, ids)
        assert [row["sample_id"] for row in rows] == [ids[place] for place in places]
        assert [row["score"] for row in rows] == pytest.approx(scores[places], rel=1e-5)


@pytest.mark.parametrize("top_k", [3, 100])
def test_a_ranking_is_what_the_engine_computes(world: JobWorld, top_k: int) -> None:
    result = ranked(world, world.rank_spec(train=30, test=18, top_k=top_k))
    expected, ids = expected_scores(world, 30, 18), ids_of("train", 30)
    assert len(expected) >= 3
    assert list(dict.fromkeys(row["query_id"] for row in result.rows("ranking"))) == ["all", *expected]
    for query_id, scores in {"all": np.sum(list(expected.values()), axis=0), **expected}.items():
        rows, places = result.ranking(query_id), order(scores, ids)
        kept = range(30) if query_id == "all" or top_k > 15 else [*range(top_k), *range(30 - top_k, 30)]
        assert [row["sample_id"] for row in rows] == [ids[places[place]] for place in kept]
        assert [row["rank"] for row in rows] == [place + 1 for place in kept]
        assert [row["score"] for row in rows] == pytest.approx(scores[places[list(kept)]], rel=1e-5)
        assert [row["label"] for row in rows] == [labels_of(30)[places[place]] for place in kept]


@pytest.mark.parametrize("class_", ["TripletMarginLoss", "CosFaceLoss"])
def test_a_loss_of_the_library_is_ranked_by(world: JobWorld, class_: str) -> None:
    """One of triplets, which needs the bank of the training samples, and one with learnt vectors."""
    spec = world.rank_spec(model=world.bundle(loss=PmlSettings(class_=class_)), top_k=30)
    found, expected = ranked(world, spec), expected_scores(world, 30, 18)
    assert len(expected) >= 3
    for query_id, scores in expected.items():
        by_id = {row["sample_id"]: row["score"] for row in found.ranking(query_id)}
        assert by_id == pytest.approx(dict(zip(ids_of("train", 30), scores, strict=True)), rel=1e-4, abs=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_scores_as_a_cpu_does(world: JobWorld) -> None:
    spec = world.rank_spec(run=RunOptions(device=Device.CPU))
    on_cpu = ranked(world, spec)
    on_gpu = ranked(world, spec.model_copy(update={"run": RunOptions(device=Device.CUDA)}))
    assert on_gpu.manifest.provenance["device"].startswith("cuda:")
    assert on_gpu.figures["feature_cache_hits"] == 0  # features of a CPU are another thing
    expected = {row["sample_id"]: row["score"] for row in on_cpu.ranking()}
    assert {row["sample_id"]: row["score"] for row in on_gpu.ranking()} == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_pairs_are_the_confusions_closest_first(world: JobWorld) -> None:
    result = ranked(world, world.rank_spec(test=18))
    rows = result.rows("pairs")
    assert result.figures["confusion_pairs"] == result.figures["queries"] == len(rows)
    assert [row["query_id"] for row in rows] == [f"pair:{row['sample_id']}:{row['neighbor_id']}" for row in rows]
    assert [row["distance"] for row in rows] == sorted(row["distance"] for row in rows)
    assert all(row["label"] != row["neighbor_label"] and row["kind"] == "confusion" for row in rows)


def test_the_manifest_tells_what_a_result_came_from(world: JobWorld) -> None:
    spec = world.rank_spec(run=RunOptions(seed=7))
    manifest = ranked(world, spec).manifest
    objects = world.folder / "objects"
    digests = {
        name: hashlib.sha256((objects / name).read_bytes()).hexdigest() for name in ("train.jsonl", "test.jsonl")
    }
    facts = manifest.provenance
    assert facts["train_manifest_sha256"] == digests["train.jsonl"]
    assert facts["test_manifest_sha256"] == digests["test.jsonl"]
    assert facts["model_sha256"] == hashlib.sha256((objects / "model" / "model.json").read_bytes()).hexdigest()
    assert facts["weights_sha256"] == local_model(world).weights_sha256
    assert facts["device"].partition(":")[0] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert facts["seed"] == "7"
    assert RankSpec.model_validate_json(facts["config"]) == spec
    figures = manifest.figures
    assert (figures["train_samples"], figures["test_samples"], figures["classes"]) == (30, 18, 3)
    assert {"seconds_inputs", "seconds_features", "seconds_confusions", "seconds_influence"} <= figures.keys()


def test_results_do_not_depend_on_shards_threads_digests_or_the_cache(world: JobWorld) -> None:
    spec = world.rank_spec(train=40)
    first = ranked(world, spec)
    plain = world.manifest("plain.jsonl", world.samples("train", 40, digests=False))
    variants = {
        "cached": (spec, SETTINGS),
        "shards and threads": (
            spec,
            SETTINGS.model_copy(
                update={
                    "cache_shard_samples": 3,
                    "read_threads": 1,
                    "decode_threads": 5,
                    "cache_uri_prefix": world.place.uri("other"),
                }
            ),
        ),
        "no digests, cached": (spec.model_copy(update={"train_manifest": plain}), SETTINGS),
        "no digests": (
            spec.model_copy(update={"train_manifest": plain}),
            SETTINGS.model_copy(update={"cache_uri_prefix": world.place.uri("third")}),
        ),
    }
    misses = {}
    for name, (variant, settings) in variants.items():
        result = ranked(world, variant, settings=settings)
        misses[name] = result.figures["feature_cache_misses"]
        for table in ("ranking", "pairs", "quarantine"):
            assert result.bytes(table) == first.bytes(table), name
    assert misses == {"cached": 0, "shards and threads": 58, "no digests, cached": 0, "no digests": 58}


def test_known_images_are_not_read_again_and_a_grown_manifest_costs_what_is_new(world: JobWorld) -> None:
    spec = world.rank_spec(train=30)
    ranked(world, spec)
    grown = world.manifest("grown.jsonl", world.samples("train", 37))
    store = WatchedStore(world.store)
    result = ranked(world, spec.model_copy(update={"train_manifest": grown}), store=store)
    assert sorted(store.images_read) == [world.place.uri(f"train/{number:04d}.png") for number in range(30, 37)]
    assert (result.figures["feature_cache_hits"], result.figures["feature_cache_misses"]) == (30 + 18, 7)
    alone = JobWorld(world.folder.parent / "alone")
    fresh = ranked(alone, alone.rank_spec(train=37))
    assert fresh.rows("ranking") == result.rows("ranking")


def test_features_of_another_model_are_not_used(world: JobWorld) -> None:
    spec = world.rank_spec()
    ranked(world, spec)
    other = ranked(world, spec.model_copy(update={"model": world.bundle("other", seed=1)}))
    assert other.figures["feature_cache_hits"] == 0


def test_samples_that_cannot_be_read_are_left_out_and_told(world: JobWorld) -> None:
    rows = world.samples("train", 30)
    bad = world.put("bad.png", b"not an image")
    broken = [
        *rows[:4],
        {"id": "bad", "uri": bad, "label": "ant"},
        *rows[4:20],
        {"id": "gone", "uri": world.place.uri("gone.png"), "label": "bee"},
        *rows[20:],
        {"id": "other", "uri": rows[0]["uri"], "label": "cat", "sha256": "0" * 64},
    ]
    spec = world.rank_spec(
        train_manifest=world.manifest("broken.jsonl", broken), run=RunOptions(max_quarantined_fraction=0.1)
    )
    result = ranked(world, spec)
    clean = ranked(world, spec.model_copy(update={"train_manifest": world.manifest("clean.jsonl", rows)}))
    assert result.rows("ranking") == clean.rows("ranking")
    told = [(row["sample_id"], row["split"], row["reason"]) for row in result.rows("quarantine")]
    assert told == [
        ("bad", "train", "IMAGE_INVALID"),
        ("gone", "train", "OBJECT_NOT_FOUND"),
        ("other", "train", "OBJECT_DIGEST_MISMATCH"),
    ]
    assert (result.figures["quarantined"], result.figures["train_samples"]) == (3, 30)


def test_a_job_that_has_a_result_reports_it_and_computes_nothing(world: JobWorld) -> None:
    request = world.request(world.rank_spec())
    first = world.run(request)
    store = WatchedStore(world.store)
    assert world.run(request.model_copy(update={"attempt": 2}), store=store) == first
    assert store.images_read == []
    assert world.result(first).manifest.attempt == 1


def test_of_two_attempts_the_first_manifest_counts(world: JobWorld) -> None:
    request = world.request(world.rank_spec())
    manifest = ResultManifest(
        name=request.name, uid=request.uid, attempt=1, kind="rank", tables={}, figures={}, provenance={}
    )
    data = manifest.model_dump_json().encode()
    inner, store = world.store, WatchedStore(world.store)

    def be_faster(uri: str) -> None:
        if uri.endswith("MANIFEST.json"):
            inner.put(uri, data)

    store.on_put = be_faster
    message = world.run(request.model_copy(update={"attempt": 2}), store=store)
    assert isinstance(message, SucceededMessage)
    assert message.manifest_sha256 == hashlib.sha256(data).hexdigest()
    left = [info.uri for info in inner.list(world.place.uri(f"out/{request.uid}/"))]
    assert left == [world.place.uri(f"out/{request.uid}/MANIFEST.json")]


def test_an_attempt_that_wakes_up_late_changes_nothing_of_a_result(world: JobWorld, tmp_path: Path) -> None:
    request = world.request(world.rank_spec())
    folder = world.place.uri(f"out/{request.uid}/")
    store, found = WatchedStore(world.store), dict[str, bytes]()

    def content() -> dict[str, bytes]:
        return {info.uri: world.store.read(info.uri, max_bytes=1 << 20) for info in world.store.list(folder)}

    def second_attempt_finishes(uri: str) -> None:
        if uri.endswith("pairs.parquet") and not found:
            run_job(
                request.model_copy(update={"attempt": 2}),
                store=world.store,
                settings=SETTINGS,
                scratch=tmp_path / "other",
                send=lambda _: None,
                cancellation=Cancellation(),
            )
            found.update(content())

    store.on_put = second_attempt_finishes
    message = world.run(request, store=store)
    assert isinstance(message, SucceededMessage)
    result = world.result(message)
    assert result.manifest.attempt == 2
    assert {entry.file for entry in result.manifest.tables.values()} == {
        f"attempt-2/{name}.parquet" for name in ("ranking", "pairs", "quarantine")
    }
    assert content() == {uri: data for uri, data in found.items() if "/attempt-1/" not in uri}


def test_results_that_could_not_be_written_are_told_before_the_work(world: JobWorld) -> None:
    world.put("out", b"a file where the folder should be")
    store = WatchedStore(world.store)
    message = world.run(world.request(world.rank_spec()), store=store)
    assert isinstance(message, FailedMessage)
    assert message.metadata["uri"].startswith(world.place.uri("out/"))
    assert store.images_read == []


def test_a_cancel_in_the_middle_leaves_no_result(world: JobWorld) -> None:
    request, cancellation = world.request(world.rank_spec()), Cancellation()
    store = WatchedStore(world.store)
    store.on_image = lambda count: cancellation.request() if count == 5 else None
    assert world.run(request, store=store, cancellation=cancellation) == CancelledMessage()
    assert list(world.store.list(world.place.uri(f"out/{request.uid}/"))) == []
    assert not (world.folder / "scratch").exists()


def test_a_cancel_before_the_manifest_leaves_no_result(world: JobWorld) -> None:
    request, cancellation = world.request(world.rank_spec()), Cancellation()
    store = WatchedStore(world.store)
    store.on_put = lambda uri: cancellation.request() if uri.endswith("quarantine.parquet") else None
    assert world.run(request, store=store, cancellation=cancellation) == CancelledMessage()
    assert "MANIFEST.json" not in [
        info.uri.rpartition("/")[2] for info in world.store.list(world.place.uri(f"out/{request.uid}/"))
    ]


def test_a_cancel_that_comes_too_late_is_a_success(world: JobWorld) -> None:
    request, cancellation = world.request(world.rank_spec()), Cancellation()
    store = WatchedStore(world.store)
    store.on_put = lambda uri: cancellation.request() if uri.endswith("MANIFEST.json") else None
    world.result(world.run(request, store=store, cancellation=cancellation))


def test_progress_goes_through_the_stages(world: JobWorld) -> None:
    ranked(world, world.rank_spec())
    messages = world.progress()
    assert [message.stages_done for message in messages] == sorted(message.stages_done for message in messages)
    ends = {message.stage: (message.done, message.total, message.unit) for message in messages}
    assert ends["features"] == (48, 48, "samples")
    assert ends["influence"][0] == ends["influence"][1] > 0
    assert ends["results"] == (3, 3, "tables")
    assert {message.stages_total for message in messages} == {5}


@pytest.mark.parametrize("kind", [QueryKind.CONFUSION_GROUPS, QueryKind.MIS_SIMILAR_PAIRS])
def test_other_kinds_of_queries(world: JobWorld, kind: QueryKind) -> None:
    spec = world.rank_spec(queries=QuerySelection(kind=kind, max_queries=2))
    result = ranked(world, spec)
    rows = result.rows("pairs")
    queries = list(dict.fromkeys(row["query_id"] for row in rows))
    assert len(queries) == result.figures["queries"] == 2
    assert {row["kind"] for row in rows} == {kind.value}
    assert len(result.ranking(queries[1])) == 30
    if kind is QueryKind.CONFUSION_GROUPS:
        assert all(row["query_id"] == f"class:{row['label']}" for row in rows)
        assert result.figures["confusion_pairs"] >= len(rows)
    else:
        assert all(row["label"] == row["neighbor_label"] for row in rows)
        assert result.figures["mis_similar_pairs"] == 18


def test_named_pairs_and_classes(world: JobWorld) -> None:
    pairs = (
        SamplePair(sample_id="test-0001", neighbor_id="test-0005"),
        SamplePair(sample_id="test-0004", neighbor_id="test-0000"),
        SamplePair(sample_id="test-0001", neighbor_id="test-0005"),
    )
    spec = world.rank_spec(queries=QuerySelection(pairs=pairs))
    named = ranked(world, spec)
    assert [row["query_id"] for row in named.rows("pairs")] == ["pair:test-0001:test-0005", "pair:test-0004:test-0000"]
    of_class = ranked(world, spec.model_copy(update={"queries": QuerySelection(classes=("bee",))}))
    assert {row["label"] for row in of_class.rows("pairs")} == {"bee"}


def test_soft_triple(world: JobWorld) -> None:
    model = world.bundle(
        loss=SoftTripleSettings(centers_per_class=2),
        changes={"loss.centers": torch.randn(3, 2, 4)},
        drop=("loss.proxies",),
    )
    result = ranked(world, world.rank_spec(model=model))
    assert result.figures["queries"] > 0
    assert any(row["score"] > 0 for row in result.ranking())


def relabel_spec(world: JobWorld, **options: Any) -> RelabelSpec:
    if not any(world.folder.glob("objects/train/*")):
        world.rank_spec()
    return RelabelSpec(
        model=Artifact(uri=world.place.uri("model")),
        train_manifest=Artifact(uri=world.place.uri("train.jsonl")),
        **options,
    )


@pytest.mark.parametrize("space", list(NeighborSpace))
def test_suggestions_are_what_the_engine_computes(world: JobWorld, space: NeighborSpace) -> None:
    result = relabeled(world, relabel_spec(world, space=space, num_neighbors=4))
    model = local_model(world)
    vectors = features_of(world, model, "train").double()
    if space is NeighborSpace.EMBEDDING:
        vectors = model.head.to(device="cpu", dtype=torch.float64).embed(vectors)
    expected = suggest(
        vectors_NF=vectors,
        labels=labels_of(30),
        sample_ids=ids_of("train", 30),
        config=RelabelConfig(num_neighbors=4),
    )
    rows = result.rows("relabel")
    assert [row["sample_id"] for row in rows] == [each.sample_id for each in expected]
    assert [row["rank"] for row in rows] == list(range(1, 31))
    for row, each in zip(rows, expected, strict=True):
        assert row["suggested_label"] == each.suggested_label
        assert row["score"] == pytest.approx(each.score, abs=1e-5)
        assert row["neighbor_ids"] == [voter.sample_id for voter in each.neighbors]
        assert row["neighbor_labels"] == [voter.label for voter in each.neighbors]
        assert row["neighbor_distances"] == pytest.approx([voter.distance for voter in each.neighbors], abs=1e-5)


def test_suggestions_for_some_samples(world: JobWorld) -> None:
    wanted = ("train-0007", "train-0003")
    every = {row["sample_id"]: row for row in relabeled(world, relabel_spec(world)).rows("relabel")}
    some = relabeled(world, relabel_spec(world, samples=SampleSelection(sample_ids=wanted))).rows("relabel")
    assert {row["sample_id"] for row in some} == set(wanted)
    for row in some:
        assert row | {"rank": 0} == every[row["sample_id"]] | {"rank": 0}


def test_suggestions_for_the_head_of_a_ranking(world: JobWorld) -> None:
    ranking = ranked(world, world.rank_spec())
    selection = SampleSelection(harmful=HarmfulSamples(job="projects/p/influenceJobs/j", count=5))
    uid = ranking.manifest.uid
    request = world.request(
        relabel_spec(world, samples=selection),
        referred={
            "uri": world.place.uri(f"out/{uid}/attempt-1/ranking.parquet"),
            "sha256": ranking.manifest.tables["ranking"].sha256,
        },
    )
    result = world.result(world.run(request))
    assert {row["sample_id"] for row in result.rows("relabel")} == {row["sample_id"] for row in ranking.ranking()[:5]}


def test_more_neighbours_than_samples_is_all_of_them(world: JobWorld) -> None:
    result = relabeled(world, relabel_spec(world, num_neighbors=1000))
    assert {len(row["neighbor_ids"]) for row in result.rows("relabel")} == {29}
    assert result.figures["num_neighbors"] == 29

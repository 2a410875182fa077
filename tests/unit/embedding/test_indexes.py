"""Building, storing, bringing back and deleting indexes, with real files and a real model."""

from __future__ import annotations

import asyncio
import json
import threading
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from eif_engine.config import NeighborSpace
from services.common.errors import ServiceError
from services.embedding.build_progress import BuildLimits
from services.embedding.names import INDEXES, Name
from services.embedding.records import IndexState
from tests.onnx_bundles import DIM, FEATURES, SIDE, expected, network, write_bundle
from tests.unit.embedding.conftest import INDEX, MODEL, Service, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.common.storage.base import ObjectStore

READY, FAILED, BUILDING = IndexState.READY, IndexState.FAILED, IndexState.BUILDING
OTHER = Name(project="p", collection=INDEXES, id="other")


class Watched:
    """A real store that calls `before` at each method, with its name and the URI."""

    def __init__(self, store: ObjectStore, before: Callable[[str, str], None]) -> None:
        self._store, self._before = store, before

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(uri: str, *arguments: Any, **options: Any) -> Any:
            self._before(name, uri)
            return method(uri, *arguments, **options)

        return call


class Gate:
    """Holds the build at the first image until it is opened."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, method: str, uri: str) -> None:
        if method == "read" and "/images/" in uri:
            self.reached.set()
            assert self.opened.wait(20)


async def start(service: Service, world: World) -> None:
    await service.create_model(world.place.uri("bundle"))


@pytest.mark.parametrize("space", list(NeighborSpace))
async def test_an_index_holds_every_sample_and_is_stored(world: World, space: NeighborSpace) -> None:
    rows = world.images(45)
    async with world.service() as service:
        await start(service, world)
        first = await service.create_index(world.manifest(rows), space=space)
        assert (first.state, first.samples_done, first.stored_uri) == (BUILDING, 0, None)
        record = await service.ended()
        assert (record.state, record.samples_done, record.samples_total) == (READY, 45, 45)
        assert record.dim == (DIM if space is NeighborSpace.EMBEDDING else FEATURES)
        assert record.update_time > record.create_time
        index = await service.indexes.open(str(INDEX))
        for seed in (0, 7, 8, 44):
            truth_D = expected([seed], space=space.value)[0]
            np.testing.assert_allclose(index.vector(f"s{seed:03d}"), truth_D, atol=2e-6)
        (answer,) = index.search(index.vector("s007")[None], k=1)
        assert (answer.sample_ids, answer.labels) == (("s007",), ("l1",))
    stored = {item.uri: item for item in world.place.store.list(world.place.uri("indexes/"))}
    folder = world.place.uri(f"indexes/p/i/{record.uid}")
    assert set(stored) == {f"{folder}/MANIFEST.json", f"{folder}/vectors.parquet"}
    assert record.stored_uri == f"{folder}/MANIFEST.json"
    manifest = json.loads(world.place.store.read(record.stored_uri, max_bytes=1 << 20))
    assert manifest["vectors"]["rows"] == 45
    assert manifest["space"] == space.value
    assert not any((world.folder / "state" / "scratch").iterdir())


async def test_a_stored_index_comes_back_after_a_restart(world: World) -> None:
    async with world.service() as service:
        await start(service, world)
        await service.create_index(world.manifest(world.images(20)))
        record = await service.ended()
        before = await service.indexes.open(str(INDEX))
    async with world.service() as service:
        assert service.indexes.board.get(str(INDEX)) == record
        after = await service.indexes.open(str(INDEX))
        assert await service.indexes.open(str(INDEX)) is after
        queries = np.stack([before.vector(f"s{seed:03d}") for seed in range(20)])
        for own, other in zip(before.search(queries, k=5), after.search(queries, k=5), strict=True):
            assert own.sample_ids == other.sample_ids
            np.testing.assert_array_equal(own.distances, other.distances)


async def test_a_stored_index_that_was_changed_is_not_used(world: World) -> None:
    async with world.service() as service:
        await start(service, world)
        await service.create_index(world.manifest(world.images(5)))
        record = await service.ended()
    vectors = f"{record.folder}/vectors.parquet"
    world.place.store.put(vectors, world.place.store.read(vectors, max_bytes=1 << 20)[:-1] + b"!")
    async with world.service() as service:
        for _ in range(2):
            with pytest.raises(ServiceError, match=r"vectors\.parquet") as caught:
                await service.indexes.open(str(INDEX))
            assert caught.value.reason == "OBJECT_DIGEST_MISMATCH"


async def test_samples_that_cannot_be_read_are_set_aside_by_name(world: World) -> None:
    rows = world.images(30)
    world.place.store.put(rows[3]["uri"], b"no image")
    world.place.store.delete(rows[11]["uri"])
    rows[20]["sha256"] = "0" * 64
    rows[25]["uri"] = "https://example.org/x.png"
    async with world.service() as service:
        await start(service, world)
        await service.create_index(world.manifest(rows), max_quarantined_fraction=0.5)
        record = await service.ended()
        assert (record.state, record.samples_done, record.samples_total) == (READY, 26, 30)
        assert record.samples_quarantined == 4
        assert [(one.sample_id, one.reason) for one in record.quarantined] == [
            ("s003", "IMAGE_INVALID"),
            ("s011", "OBJECT_NOT_FOUND"),
            ("s020", "OBJECT_DIGEST_MISMATCH"),
            ("s025", "URI_NOT_ALLOWED"),
        ]
        assert record.quarantined[0].uri == rows[3]["uri"]
        assert rows[3]["uri"] in record.quarantined[0].message
        index = await service.indexes.open(str(INDEX))
        assert len(index) == 26
    async with world.service() as service:
        assert service.indexes.board.get(str(INDEX)).quarantined == record.quarantined


async def test_images_without_direction_are_set_aside(world: World) -> None:
    """A black image is all zeros to a network that subtracts no mean, and so is its embedding."""
    rows = world.images(8)
    write_bundle(world.folder / "store" / "bundle", preprocessing={"mode": "L", "resize": [SIDE, SIDE]})
    black = BytesIO()
    Image.new("L", (SIDE, SIDE)).save(black, "PNG")
    world.place.store.put(rows[2]["uri"], black.getvalue())
    async with world.service() as service:
        await start(service, world)
        await service.create_index(world.manifest(rows), max_quarantined_fraction=0.5)
        record = await service.ended()
        assert [(one.sample_id, one.reason) for one in record.quarantined] == [("s002", "ONNX_INVALID")]
        assert "zero or not finite" in record.quarantined[0].message
        assert record.samples_done == 7


async def test_too_many_of_them_fail_the_build_at_once(world: World) -> None:
    rows = world.images(40)
    for row in rows[:3]:
        world.place.store.delete(row["uri"])
    async with world.service() as service:
        await start(service, world)
        await service.create_index(world.manifest(rows), max_quarantined_fraction=0.05)
        record = await service.ended()
        assert record.state is FAILED
        assert record.failure is not None
        assert record.failure.reason == "TOO_MANY_QUARANTINED"
        assert "3 of 40 samples" in record.failure.message
        assert "the first is s000" in record.failure.message
        assert record.samples_quarantined == len(record.quarantined) == 3
        assert record.samples_done < 40
        with pytest.raises(ServiceError, match="FAILED: 3 of 40") as caught:
            await service.indexes.open(str(INDEX))
        assert caught.value.reason == "INDEX_NOT_READY"
    assert list(world.place.store.list(world.place.uri("indexes/"))) == []


async def test_without_a_fraction_one_in_a_hundred_may_be_unreadable(world: World) -> None:
    rows = world.images(100)
    world.place.store.delete(rows[0]["uri"])
    async with world.service() as service:
        await start(service, world)
        await service.create_index(world.manifest(rows))
        assert (await service.ended()).state is READY
        world.place.store.delete(rows[1]["uri"])
        await service.create_index(world.manifest(rows), OTHER)
        assert (await service.ended(OTHER)).state is FAILED


async def test_the_first_hundred_are_listed(world: World) -> None:
    rows = [{"id": f"s{number}", "uri": world.place.uri(f"none/{number}.png"), "label": "x"} for number in range(130)]
    async with world.service() as service:
        await start(service, world)
        await service.create_index(world.manifest(rows), max_quarantined_fraction=1)
        record = await service.ended()
        assert (record.state, record.samples_done, record.samples_quarantined) == (READY, 0, 130)
        assert [one.sample_id for one in record.quarantined] == [f"s{number}" for number in range(100)]
        empty = await service.indexes.open(str(INDEX))
        assert len(empty) == 0
        assert empty.search(np.ones((1, DIM), dtype=np.float32), k=3)[0].sample_ids == ()


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ('{"id": "a", "uri": "file:///x.png", "label": "l"}\n{"id": "b"\n', "MANIFEST_INVALID", "line 2"),
        (
            '{"id": "a", "uri": "u", "label": "l"}\n{"id": "a", "uri": "v", "label": "l"}\n',
            "MANIFEST_INVALID",
            "line 2",
        ),
        ("", "MANIFEST_INVALID", "is empty"),
        (None, "OBJECT_NOT_FOUND", "manifest.jsonl"),
    ],
)
async def test_a_faulty_manifest_fails_the_build_with_its_place(
    world: World, text: str | None, reason: str, message: str
) -> None:
    uri = world.place.uri("manifest.jsonl")
    if text is not None:
        world.place.store.put(uri, text.encode())
    async with world.service() as service:
        await start(service, world)
        await service.create_index(uri)
        record = await service.ended()
        assert record.state is FAILED
        assert record.failure is not None
        assert record.failure.reason == reason
        assert uri in record.failure.message
        assert message in record.failure.message


async def test_another_manifest_than_the_one_named_is_refused(world: World) -> None:
    async with world.service() as service:
        await start(service, world)
        await service.create_index(world.manifest(world.images(3)), manifest_sha256="0" * 64)
        record = await service.ended()
        assert record.failure is not None
        assert record.failure.reason == "OBJECT_DIGEST_MISMATCH"


async def test_an_index_that_would_not_fit_is_refused_with_its_size(world: World) -> None:
    async with world.service(build=BuildLimits(max_index_bytes=100)) as service:
        await start(service, world)
        await service.create_index(world.manifest(world.images(10)))
        record = await service.ended()
        assert record.failure is not None
        assert record.failure.reason == "MEMORY_EXCEEDED"
        assert "10 vectors of size 4 take 160 bytes" in record.failure.message


async def test_a_build_that_was_cut_short_starts_again(world: World) -> None:
    gate = Gate()
    rows = world.images(40)
    async with world.service(store=Watched(world.place.store, gate)) as service:
        await start(service, world)
        await service.create_index(world.manifest(rows))
        await asyncio.to_thread(gate.reached.wait, 20)
        threading.Timer(0.1, gate.opened.set).start()
    async with world.service() as service:
        assert service.indexes.board.get(str(INDEX)).state is BUILDING
        record = await service.ended()
        assert (record.state, record.samples_done) == (READY, 40)


async def test_an_index_stored_just_before_a_crash_is_taken_as_it_is(world: World) -> None:
    """The manifest is there, but the registry still says BUILDING: nothing is embedded again."""
    rows = world.images(10)
    world.place.store.put(rows[4]["uri"], b"no image")
    async with world.service() as service:
        await start(service, world)
        created = await service.create_index(world.manifest(rows), max_quarantined_fraction=0.5)
        done = await service.ended()
        service.indexes._registry.update(created, str(INDEX))
    reads: list[str] = []
    async with world.service(store=Watched(world.place.store, lambda _, uri: reads.append(uri))) as service:
        again = await service.ended()
        assert again.model_copy(update={"update_time": done.update_time}) == done
        assert len(await service.indexes.open(str(INDEX))) == 9
    assert not any("/images/" in uri for uri in reads)


async def test_a_store_that_does_not_answer_for_a_while_delays_the_build(world: World) -> None:
    failures = iter(range(2))

    def fail(method: str, uri: str) -> None:
        if method == "read" and "/images/" in uri and next(failures, None) is not None:
            raise ServiceError("STORAGE_UNAVAILABLE", f"{uri}: no answer")

    async with world.service(store=Watched(world.place.store, fail)) as service:
        await start(service, world)
        await service.create_index(world.manifest(world.images(20)))
        record = await service.ended()
        assert (record.state, record.samples_done) == (READY, 20)


async def test_a_store_that_never_answers_fails_the_build(world: World) -> None:
    def fail(method: str, uri: str) -> None:
        if method == "put" and uri.endswith("vectors.parquet"):
            raise ServiceError("STORAGE_UNAVAILABLE", f"{uri}: no answer")

    async with world.service(store=Watched(world.place.store, fail)) as service:
        await start(service, world)
        await service.create_index(world.manifest(world.images(5)))
        record = await service.ended()
        assert record.failure is not None
        assert record.failure.reason == "STORAGE_UNAVAILABLE"


async def test_a_fault_of_this_software_says_nothing_of_itself(world: World) -> None:
    def fail(method: str, uri: str) -> None:
        if method == "download":
            raise ZeroDivisionError(uri)

    async with world.service() as service:
        await start(service, world)
    async with world.service(store=Watched(world.place.store, fail)) as service:
        await service.create_index(world.manifest(world.images(5)))
        record = await service.ended()
        assert record.failure is not None
        assert (record.failure.reason, record.failure.message) == ("INTERNAL", "internal error")


async def test_deleting_stops_a_build_and_removes_everything(world: World) -> None:
    gate = Gate()
    async with world.service(store=Watched(world.place.store, gate)) as service:
        await start(service, world)
        await service.create_index(world.manifest(world.images(40)))
        await asyncio.to_thread(gate.reached.wait, 20)
        deleting = asyncio.create_task(service.indexes.delete(str(INDEX)))
        await asyncio.sleep(0.05)
        with pytest.raises(ServiceError, match="no index"):
            service.indexes.board.get(str(INDEX))
        gate.opened.set()
        await asyncio.wait_for(deleting, 20)
        with pytest.raises(ServiceError, match="no index"):
            await service.indexes.delete(str(INDEX))
        await service.models.delete(str(MODEL))  # no index needs it any more
    assert list(world.place.store.list(world.place.uri("indexes/"))) == []


async def test_deleting_a_ready_index_removes_what_is_stored_and_frees_its_name(world: World) -> None:
    async with world.service() as service:
        await start(service, world)
        uri = world.manifest(world.images(4))
        await service.create_index(uri)
        first = await service.ended()
        with pytest.raises(ServiceError) as used:
            await service.models.delete(str(MODEL))
        assert used.value.reason == "MODEL_IN_USE"
        await service.indexes.delete(str(INDEX))
        assert list(world.place.store.list(world.place.uri("indexes/"))) == []
        await service.create_index(uri)
        second = await service.ended()
        assert (second.state, second.uid != first.uid) == (READY, True)


async def test_a_delete_that_was_cut_short_goes_on_after_a_restart(world: World) -> None:
    async with world.service() as service:
        await start(service, world)
        await service.create_index(world.manifest(world.images(4)))
        record = await service.ended()
        deleting = record.model_copy(update={"state": IndexState.DELETING})
        service.indexes._registry.update(deleting, str(INDEX))
    async with world.service() as service:
        with pytest.raises(ServiceError, match="no index"):
            service.indexes.board.get(str(INDEX))
        for task in list(service.indexes._tasks._running):
            await task
        assert list(world.place.store.list(world.place.uri("indexes/"))) == []
        assert service.indexes._registry.all() == []


async def test_a_delete_that_fails_can_be_repeated(world: World) -> None:
    failures = iter(range(1))

    def fail(method: str, uri: str) -> None:
        if method == "delete" and next(failures, None) is not None:
            raise ServiceError("STORAGE_UNAVAILABLE", f"{uri}: no answer")

    async with world.service(store=Watched(world.place.store, fail)) as service:
        await start(service, world)
        await service.create_index(world.manifest(world.images(4)))
        await service.ended()
        with pytest.raises(ServiceError, match="no answer"):
            await service.indexes.delete(str(INDEX))
        await service.indexes.delete(str(INDEX))
    assert list(world.place.store.list(world.place.uri("indexes/"))) == []


async def test_creating_needs_a_model_a_space_and_a_place(world: World) -> None:
    write_bundle(
        world.folder / "store" / "bundle", network(outputs=["embedding"]), outputs={"features": None}, feature_dim=0
    )
    async with world.service() as service:
        uri = world.manifest(world.images(1))
        with pytest.raises(ServiceError) as no_model:
            await service.create_index(uri)
        await start(service, world)
        with pytest.raises(ServiceError) as no_space:
            await service.create_index(uri, space=NeighborSpace.PENULTIMATE)
        service.indexes._prefix = "file:///nowhere"
        with pytest.raises(ServiceError) as not_allowed:
            await service.create_index(uri)
        service.indexes._prefix = None
        with pytest.raises(ServiceError, match="--index-uri-prefix") as no_prefix:
            await service.create_index(uri)
    reasons = [caught.value.reason for caught in (no_model, no_space, not_allowed, no_prefix)]
    assert reasons == ["MODEL_NOT_FOUND", "SPACE_NOT_AVAILABLE", "URI_NOT_ALLOWED", "ARGUMENT_INVALID"]


async def test_the_same_request_creates_one_index(world: World) -> None:
    async with world.service() as service:
        await start(service, world)
        uri = world.manifest(world.images(3))
        first, second = await asyncio.gather(*(service.create_index(uri, request_id="r") for _ in range(2)))
        assert first.uid == second.uid
        await service.ended()
        third = await service.create_index(uri, request_id="r")
        assert (third.uid, third.state) == (first.uid, READY)
        with pytest.raises(ServiceError) as reused:
            await service.create_index(uri, request_id="r", space=NeighborSpace.PENULTIMATE)
        with pytest.raises(ServiceError) as exists:
            await service.create_index(uri)
        assert (reused.value.reason, exists.value.reason) == ("REQUEST_ID_REUSED", "INDEX_ALREADY_EXISTS")


async def test_builds_wait_for_each_other_up_to_a_limit(world: World) -> None:
    gate = Gate()
    async with world.service(store=Watched(world.place.store, gate), max_waiting=2) as service:
        await start(service, world)
        uri = world.manifest(world.images(3))
        await service.create_index(uri)
        await service.create_index(uri, OTHER)
        with pytest.raises(ServiceError) as full:
            await service.create_index(uri, Name(project="p", collection=INDEXES, id="third"))
        assert full.value.reason == "QUEUE_FULL"
        gate.opened.set()
        assert (await service.ended()).state is (await service.ended(OTHER)).state is READY


async def test_an_index_that_waits_is_deleted_without_waiting(world: World) -> None:
    gate = Gate()
    async with world.service(store=Watched(world.place.store, gate)) as service:
        await start(service, world)
        uri = world.manifest(world.images(3))
        await service.create_index(uri)
        await asyncio.to_thread(gate.reached.wait, 20)
        await service.create_index(uri, OTHER)
        await asyncio.wait_for(service.indexes.delete(str(OTHER)), 10)
        assert service.indexes.board.names("projects/p/indexes") == [str(INDEX)]
        gate.opened.set()
        assert (await service.ended()).state is READY


async def test_an_end_that_cannot_be_kept_is_still_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry's disk is full: the index can be searched, and the next server takes it from what is stored."""
    async with world.service() as service:
        await start(service, world)
        await service.create_index(world.manifest(world.images(3)))

        def full(*_: object) -> None:
            raise ServiceError("RESOURCE_PROBLEM", "no space")

        monkeypatch.setattr(service.indexes._registry, "update", full)
        record = await service.ended()
        assert record.state is READY
        assert len(await service.indexes.open(str(INDEX))) == 3
    async with world.service() as service:
        again = await service.ended()
        assert (again.state, again.stored_sha256) == (READY, record.stored_sha256)


async def test_the_least_recently_searched_index_leaves_memory_and_comes_back(world: World) -> None:
    async with world.service() as service:
        await start(service, world)
        uri = world.manifest(world.images(4))
        for name in (INDEX, OTHER):
            await service.create_index(uri, name)
            await service.ended(name)
        loaded = service.indexes._loaded
        assert len(loaded._indexes) == 2
        loaded._max_bytes = 1
        first = await service.indexes.open(str(INDEX))
        loaded.add("one more", first)
        assert list(loaded._indexes) == ["one more"]
        assert len(await service.indexes.open(str(OTHER))) == 4
        assert len(loaded._indexes) == 1

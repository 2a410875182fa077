from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from eif_engine.config import NeighborSpace
from eif_engine.errors import EifError, OnnxInvalid
from services.common.errors import ServiceError
from services.embedding.names import MODELS, Name
from services.embedding.records import ModelSpec
from tests.onnx_bundles import DIM, FEATURES, expected, prepared, write_bundle

if TYPE_CHECKING:
    from tests.unit.embedding.conftest import World

A, B, C = (Name(project="p", collection=MODELS, id=name) for name in "abc")


async def test_a_created_model_embeds_and_comes_back_after_a_restart(world: World) -> None:
    async with world.service() as service:
        record = await service.create_model(world.place.uri("bundle"))
        assert (record.embedding_dim, record.feature_dim, record.weights_sha256) == (DIM, FEATURES, "ab" * 32)
        assert service.models.names("projects/p/models") == [record.name]
        assert service.models.names("projects/q/models") == []
    shutil.rmtree(world.folder / "store" / "bundle")  # its copy is enough
    async with world.service() as service:
        assert service.models.get(record.name) == record
        encoder = await service.models.encoder(record.name)
        vectors_BD = await encoder.embed([prepared(0)], NeighborSpace.EMBEDDING)
        np.testing.assert_allclose(vectors_BD, expected([0]), atol=2e-6)


async def test_a_damaged_copy_is_fetched_again(world: World) -> None:
    async with world.service() as service:
        record = await service.create_model(world.place.uri("bundle"))
    (world.folder / "state" / "models" / record.uid / "model.onnx").write_bytes(b"damaged")
    async with world.service() as service:
        await service.models.encoder(record.name)


async def test_a_model_that_cannot_come_back_says_why_and_is_tried_again(world: World) -> None:
    async with world.service() as service:
        record = await service.create_model(world.place.uri("bundle"))
    shutil.rmtree(world.folder / "state" / "models" / record.uid)
    (world.folder / "store" / "bundle").rename(world.folder / "store" / "away")
    async with world.service() as service:
        for _ in range(2):
            with pytest.raises(ServiceError, match=r"bundle/onnx\.json") as caught:
                await service.models.encoder(record.name)
            assert caught.value.reason == "OBJECT_NOT_FOUND"
        (world.folder / "store" / "away").rename(world.folder / "store" / "bundle")
        await service.models.encoder(record.name)


async def test_what_a_killed_creation_left_is_removed(world: World) -> None:
    left = world.folder / "state" / "models" / "left"
    left.mkdir(parents=True)
    async with world.service():
        assert not left.exists()


async def test_a_refused_model_leaves_nothing(world: World) -> None:
    write_bundle(world.folder / "store" / "bad", b"no model")
    async with world.service() as service:
        for uri in ("bad", "nothing"):
            with pytest.raises(EifError):
                await service.create_model(world.place.uri(uri))
        assert list((world.folder / "state" / "models").iterdir()) == []
        with pytest.raises(ServiceError, match="no model projects/p/models/m"):
            service.models.get("projects/p/models/m")
        await service.create_model(world.place.uri("bundle"))


async def test_at_once_and_with_one_request_id_one_model_is_made(world: World) -> None:
    async with world.service() as service:
        uri = world.place.uri("bundle")
        records = await asyncio.gather(*(service.create_model(uri, A, request_id="r") for _ in range(4)))
        assert len({record.uid for record in records}) == 1
        with pytest.raises(ServiceError) as exists:
            await service.create_model(uri, A)
        with pytest.raises(ServiceError) as reused:
            await service.create_model(world.place.uri("bundle/onnx.json"), A, request_id="r")
        assert (exists.value.reason, reused.value.reason) == ("MODEL_ALREADY_EXISTS", "REQUEST_ID_REUSED")
        assert len(list((world.folder / "state" / "models").iterdir())) == 1


async def test_a_creation_goes_on_when_its_caller_is_gone(world: World) -> None:
    async with world.service() as service:
        uri = world.place.uri("bundle")
        creating = asyncio.create_task(service.create_model(uri, A, request_id="r"))
        await asyncio.sleep(0)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        record = await service.create_model(uri, A, request_id="r")
        assert service.models.get(str(A)) == record


async def test_more_models_than_the_limit_are_refused(world: World) -> None:
    async with world.service() as service:
        uri = world.place.uri("bundle")
        await service.create_model(uri, A)
        await service.create_model(uri, B)
        with pytest.raises(ServiceError, match="2 models and its limit is 2: delete one first") as caught:
            await service.create_model(uri, C)
        assert caught.value.reason == "RESOURCE_PROBLEM"
        await service.models.delete(str(A))
        await service.create_model(uri, C)


async def test_a_deleted_model_is_gone_with_its_files(world: World) -> None:
    async with world.service() as service:
        record = await service.create_model(world.place.uri("bundle"), A)
        encoder = await service.models.encoder(str(A))
        await service.models.delete(str(A))
        assert not (world.folder / "state" / "models" / record.uid).exists()
        for use in (service.models.encoder(str(A)), service.models.delete(str(A))):
            with pytest.raises(ServiceError) as caught:
                await use
            assert caught.value.reason == "MODEL_NOT_FOUND"
        with pytest.raises(ServiceError, match="deleted"):
            await encoder.embed([prepared(0)], NeighborSpace.EMBEDDING)
    async with world.service() as service:
        assert service.models.names("projects/p/models") == []


async def test_a_digest_that_does_not_hold_is_refused(world: World) -> None:
    async with world.service() as service:
        spec = ModelSpec(name=str(A), uri=world.place.uri("bundle"), sha256="0" * 64)
        with pytest.raises(ServiceError) as caught:
            await service.models.create(spec, A, request_id=None)
        assert caught.value.reason == "OBJECT_DIGEST_MISMATCH"


async def test_a_model_over_the_size_limit_is_refused(world: World) -> None:
    async with world.service() as service:
        service.models._limits = service.models._limits.__class__(max_bytes=10)
        with pytest.raises(OnnxInvalid, match="limit of 10"):
            await service.create_model(world.place.uri("bundle"), A)


async def test_a_disk_that_takes_nothing_is_told(world: World) -> None:
    async with world.service() as service:
        service.models._folder = world.folder / "file"
        service.models._folder.write_text("not a folder")
        with pytest.raises(ServiceError, match="state folder") as caught:
            await service.create_model(world.place.uri("bundle"), A)
        assert caught.value.reason == "RESOURCE_PROBLEM"

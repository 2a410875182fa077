from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import helper

from eif_engine.config import NeighborSpace
from eif_engine.errors import OnnxInvalid
from services.common.errors import ServiceError
from services.embedding.encoder import Encoder
from services.embedding.session import CPU
from tests.onnx_bundles import DIM, FEATURES, SIDE, expected, network, prepared, write_bundle

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EMBEDDING, PENULTIMATE = NeighborSpace.EMBEDDING, NeighborSpace.PENULTIMATE


def load(folder: Path) -> Encoder:
    return Encoder.load(folder, name="m", provider=CPU, threads=1)


@pytest.fixture
def encoder(tmp_path: Path) -> Iterator[Encoder]:
    loaded = load(write_bundle(tmp_path))
    yield loaded
    loaded.close()


class HeldSession:
    """Stands before a real session: counts runs and holds each until it is let go."""

    def __init__(self, encoder: Encoder) -> None:
        self._real = encoder._session
        self.entered, self.release = threading.Event(), threading.Event()
        self.runs: list[int] = []
        self.at_once, self.most_at_once = 0, 0
        encoder._session = self

    def run(self, outputs: list[str], inputs: dict[str, Any]) -> Any:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.runs.append(len(inputs["images"]))
        self.entered.set()
        assert self.release.wait(10)
        self.at_once -= 1
        return self._real.run(outputs, inputs)


@pytest.mark.parametrize("space", [EMBEDDING, PENULTIMATE])
async def test_gives_the_unit_vectors_of_both_spaces(encoder: Encoder, space: NeighborSpace) -> None:
    vectors_BD = await encoder.embed([prepared(seed) for seed in range(5)], space)
    assert vectors_BD.dtype == np.float32
    assert vectors_BD.shape == (5, DIM if space is EMBEDDING else FEATURES)
    assert encoder.dim(space) == vectors_BD.shape[1]
    np.testing.assert_allclose(vectors_BD, expected(range(5), space=space.value), atol=2e-6)


async def test_a_vector_does_not_depend_on_who_shares_its_batch(encoder: Encoder) -> None:
    images = [prepared(seed) for seed in range(32)]
    for space in (EMBEDDING, PENULTIMATE):
        together_BD = await encoder.embed(images, space)
        for size in (1, 3, 31):
            parts = [await encoder.embed(images[start : start + size], space) for start in range(0, 32, size)]
            assert np.abs(np.concatenate(parts) - together_BD).max() <= 1e-5
        backwards_BD = await encoder.embed(images[::-1], space)
        assert np.abs(backwards_BD[::-1] - together_BD).max() <= 1e-5


async def test_one_batch_at_a_time_in_the_order_they_came(encoder: Encoder) -> None:
    held = HeldSession(encoder)
    held.release.set()
    images = [prepared(0)]
    await asyncio.gather(*(encoder.embed(images * size, EMBEDDING) for size in range(1, 9)))
    assert held.runs == list(range(1, 9))
    assert held.most_at_once == 1


async def test_a_cancelled_batch_is_not_computed(encoder: Encoder) -> None:
    held = HeldSession(encoder)
    first = asyncio.create_task(encoder.embed([prepared(0)], EMBEDDING))
    await asyncio.to_thread(held.entered.wait, 10)
    cancelled = asyncio.create_task(encoder.embed([prepared(0)] * 2, EMBEDDING))
    last = asyncio.create_task(encoder.embed([prepared(0)] * 3, EMBEDDING))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    held.release.set()
    await asyncio.gather(first, last)
    assert held.runs == [1, 3]


async def test_a_model_without_features_has_one_space(tmp_path: Path) -> None:
    model = network(outputs=["embedding"])
    encoder = load(write_bundle(tmp_path, model, outputs={"features": None}, feature_dim=0))
    assert (await encoder.embed([prepared(0)], EMBEDDING)).shape == (1, DIM)
    with pytest.raises(ServiceError, match="no output for the features") as caught:
        await encoder.embed([prepared(0)], PENULTIMATE)
    assert caught.value.reason == "SPACE_NOT_AVAILABLE"


async def test_an_image_without_direction_gives_nan_and_leaves_the_others_alone(encoder: Encoder) -> None:
    blank = np.zeros((1, SIDE, SIDE), dtype=np.float32)
    vectors_BD = await encoder.embed([prepared(0), blank, prepared(1)], EMBEDDING)
    assert np.isnan(vectors_BD[1]).all()
    np.testing.assert_allclose(vectors_BD[[0, 2]], expected([0, 1]), atol=2e-6)


async def test_a_failing_run_is_an_error_of_that_call_alone(tmp_path: Path) -> None:
    """A network that can only run two images at a time, whatever its shapes say."""
    row = helper.make_node("Constant", [], ["two"], value_ints=[2, SIDE * SIDE])
    model = network(nodes=[row, helper.make_node("Reshape", ["images", "two"], ["reshaped"])])
    next(node for node in model.graph.node if node.op_type == "Flatten").input[0] = "reshaped"
    encoder = load(write_bundle(tmp_path, model))
    with pytest.raises(OnnxInvalid, match="m failed on a batch of 3 images"):
        await encoder.embed([prepared(0)] * 3, EMBEDDING)
    assert (await encoder.embed([prepared(0)] * 2, EMBEDDING)).shape == (2, DIM)


async def test_a_closed_model_is_gone(encoder: Encoder) -> None:
    encoder.close()
    with pytest.raises(ServiceError) as caught:
        await encoder.embed([prepared(0)], EMBEDDING)
    assert caught.value.reason == "MODEL_NOT_FOUND"


async def test_what_waits_when_a_model_is_closed_is_told_so(encoder: Encoder) -> None:
    held = HeldSession(encoder)
    running = asyncio.create_task(encoder.embed([prepared(0)], EMBEDDING))
    await asyncio.to_thread(held.entered.wait, 10)
    waiting = asyncio.create_task(encoder.embed([prepared(1)], EMBEDDING))
    await asyncio.sleep(0)
    encoder.close()
    held.release.set()
    with pytest.raises(ServiceError, match="m was deleted") as caught:
        await waiting
    assert caught.value.reason == "MODEL_NOT_FOUND"
    assert (await running).shape == (1, DIM)


def test_a_file_that_cannot_be_loaded_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(OnnxInvalid, match="m cannot be loaded") as caught:
        load(write_bundle(tmp_path, b"no model"))
    assert str(tmp_path) not in caught.value.message

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eif_engine.data.features import BATCH_SIZE, extract
from eif_engine.errors import CheckpointIncompatible, GpuMemoryExceeded
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import Architecture

CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
    ),
]


def conv4(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    module = build_backbone(Architecture(name="conv4", options={"image_size": 16, "width": 8})).module
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    return module


def images(count: int, side: int = 16, channels: int = 1, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, channels, side, side)).astype(np.float32)


def portions(data: NDArray[np.float32], sizes: list[int]) -> Iterator[NDArray[np.float32]]:
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size
    assert start == len(data)


def features(
    module: nn.Module, data: NDArray[np.float32], sizes: list[int], device: str = "cpu"
) -> NDArray[np.float32]:
    target = torch.device(device)
    blocks = list(extract(module.to(target), portions(data, sizes), device=target))
    assert [len(block) for block in blocks[:-1]] == [BATCH_SIZE] * (len(blocks) - 1)
    return np.concatenate(blocks)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["conv4", "resnet18", "mobilenet_v2"])
def test_features_are_the_same_bits_whatever_the_portions(name: str, device: str) -> None:
    module = conv4() if name == "conv4" else build_backbone(Architecture(name=name)).module
    data = images(150) if name == "conv4" else images(70, side=32, channels=3)
    count = len(data)
    whole = features(module, data, [count], device)
    for sizes in (
        [1] * count,
        [7] * (count // 7) + [count % 7],
        [0, 1, 0, count - 2, 1, 0],
        [64, count - 64],
        [63, count - 63],
    ):
        assert (features(module, data, sizes, device) == whole).all()


def test_features_are_those_of_the_network() -> None:
    module, data = conv4(), images(70)
    with torch.inference_mode():
        expected = module(torch.from_numpy(data)).numpy()
    found = features(module, data, [70])
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_a_feature_does_not_depend_on_its_neighbours(device: str) -> None:
    module, data = conv4(), images(100)
    order = np.random.default_rng(2).permutation(100)
    shuffled = features(module, data[order], [100], device)
    np.testing.assert_allclose(shuffled, features(module, data, [100], device)[order], rtol=1e-5, atol=1e-6)


def test_nothing_in_gives_nothing_out() -> None:
    assert list(extract(conv4(), iter([]), device=CPU)) == []
    assert list(extract(conv4(), iter([images(0)]), device=CPU)) == []


def test_batches_are_read_only_as_they_are_needed() -> None:
    read = 0

    def counted() -> Iterator[NDArray[np.float32]]:
        nonlocal read
        for _ in range(10):
            read += 1
            yield images(BATCH_SIZE)

    found = extract(conv4(), counted(), device=CPU)
    assert read == 0
    next(found)
    assert read == 1
    found.close()  # type: ignore[attr-defined]  # the iterator is a generator


class Noisy(nn.Module):
    """Drop-out and batch norm: different in training mode, and one of them changed by a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.drop(self.norm(x)).flatten(1)
        return result


def test_a_network_in_training_mode_runs_in_eval_mode_and_is_given_back_unchanged() -> None:
    module = Noisy().train()
    module.drop.eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    first, second = features(module, images(80), [80]), features(module, images(80), [80])
    assert (first == second).all()
    assert (module.training, module.norm.training, module.drop.training) == (True, True, False)
    for key, value in module.state_dict().items():
        assert (value == before[key]).all()


def test_the_mode_is_given_back_when_the_caller_stops_early() -> None:
    module = Noisy().train()
    found = extract(module, iter([images(200)]), device=CPU)
    next(found)
    found.close()  # type: ignore[attr-defined]  # the iterator is a generator
    assert module.training


def test_no_gradients_are_kept() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(256, 4))
    features(module, images(3), [3])
    assert module[1].weight.grad is None
    assert module[1].weight.requires_grad


def test_features_that_are_not_finite_name_the_row() -> None:
    data = images(200)
    data[130, 0, 0, 0] = np.nan
    with pytest.raises(CheckpointIncompatible, match="features for image 130"):
        features(nn.Flatten(), data, [200])


class Hungry(nn.Module):
    """Means of images; out of memory for batches above a size."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.tried = most, list[int]()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        self.tried.append(len(images_BCHW))
        if len(images_BCHW) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images_BCHW.mean(dim=(2, 3))


def test_batches_are_halved_until_they_fit_and_stay_small() -> None:
    module, data, told = Hungry(20), images(150), list[int]()
    blocks = list(extract(module, [data], device=CPU, on_smaller=told.append))
    assert [len(block) for block in blocks] == [64, 64, 22]
    np.testing.assert_allclose(np.concatenate(blocks), data.mean(axis=(2, 3)), rtol=1e-6, atol=1e-7)
    assert module.tried == [64, 32, *[16] * 4, *[16] * 4, *[16] * 2]
    assert told == [16]


def test_full_batches_that_fit_are_left_alone() -> None:
    told = list[int]()
    list(extract(Hungry(64), [images(70)], device=CPU, on_smaller=told.append))
    assert told == []


def test_an_image_that_does_not_fit_alone_is_an_error_with_its_reason() -> None:
    with pytest.raises(GpuMemoryExceeded, match="not even one image") as caught:
        list(extract(Hungry(0), [images(3)], device=CPU))
    assert caught.value.reason == "GPU_OUT_OF_MEMORY"

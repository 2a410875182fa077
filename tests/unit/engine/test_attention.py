"""Grouped attention: what it computes, what it fits into, and how its groups share a similarity."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import ModelBundleInvalid
from eif_engine.functional.groups import group_embeddings, group_shares
from eif_engine.losses.settings import ProxyNcaSettings
from eif_engine.models.architectures import build_backbone, bundle_backbone
from eif_engine.models.attention import GroupedAttention, block_head, find_attention
from eif_engine.models.bundle import Architecture, AttentionSettings, FeatureNorm, Pooling, read_bundle
from eif_engine.models.check import check_bundle
from eif_engine.models.checkpoint import load_model
from eif_engine.models.export import export_onnx
from eif_engine.models.findings import is_usable
from eif_engine.models.head import Head
from eif_engine.models.network import Network
from eif_engine.models.save import save_bundle, state_dict_of
from eif_engine.models.small import conv4
from tests.bundles import CLASSES, DIM
from tests.unit.engine.test_export import pictures

SIZES = AttentionSettings(groups=3, key_dim=4, value_dim=2)


def module(channels: int = 5, settings: AttentionSettings = SIZES) -> GroupedAttention:
    torch.manual_seed(0)
    return GroupedAttention(channels, settings).requires_grad_(requires_grad=False)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_is_written_from_its_definition() -> None:
    attention, map_BCHW = module(), draw(2, 5, 3, 4)
    for image in range(2):
        expected = []
        for group in range(3):
            cells = [map_BCHW[image, :, row, column] for row in range(3) for column in range(4)]
            scores = [float(attention.query[group] @ (attention.key @ cell)) / math.sqrt(4) for cell in cells]
            total = sum(math.exp(score) for score in scores)
            weights = [math.exp(score) / total for score in scores]
            np.testing.assert_allclose(attention.attention(map_BCHW)[image, group], weights, atol=1e-6)
            values = [attention.value[group] @ cell for cell in cells]
            expected.append(sum(weight * value for weight, value in zip(weights, values, strict=True)))
        features = torch.cat([torch.as_tensor(part) for part in expected])
        torch.testing.assert_close(attention(map_BCHW)[image], features, rtol=1e-5, atol=1e-6)


def test_weights_of_each_group_sum_to_one() -> None:
    weights_BGU = module().attention(10 * draw(4, 5, 6, 6))
    assert weights_BGU.shape == (4, 3, 36)
    torch.testing.assert_close(weights_BGU.sum(2), torch.ones(4, 3), rtol=0, atol=1e-6)
    assert weights_BGU.min() >= 0


def test_where_a_part_is_does_not_matter() -> None:
    map_BCHW = draw(1, 5, 3, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    moved = map_BCHW.flatten(2)[:, :, order].reshape(1, 5, 3, 4)
    torch.testing.assert_close(module()(moved), module()(map_BCHW))


@pytest.mark.parametrize(
    ("name", "keys"), [("resnet18", "avgpool"), ("mobilenet_v2", "pool"), ("efficientnet_b0", "avgpool")]
)
def test_torchvision_networks_take_it_as_their_pooling(name: str, keys: str) -> None:
    backbone = build_backbone(Architecture(name=name), pooling=Pooling.GROUPED_ATTENTION, attention=SIZES).module
    with torch.inference_mode():
        assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, 6)
    found = find_attention(backbone)
    assert found is not None
    assert found[0] == keys
    assert f"{keys}.query" in backbone.state_dict()
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_it_goes_with_a_layer_norm() -> None:
    backbone = build_backbone(
        Architecture(name="resnet18"),
        pooling=Pooling.GROUPED_ATTENTION,
        attention=SIZES,
        feature_norm=FeatureNorm.LAYER_NORM,
    ).module
    with torch.inference_mode():
        features_BF = backbone(draw(2, 3, 64, 64))
    torch.testing.assert_close(features_BF.mean(1), torch.zeros(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mobilenet_v3_small", "layers between pooling and classifier"),
        ("convnext_tiny", "layers between pooling and classifier"),
        ("vit_b_16", "not available for VisionTransformer"),
        ("conv4", "does its own pooling"),
    ],
)
def test_networks_that_it_does_not_fit_are_refused(name: str, says: str) -> None:
    with pytest.raises(ModelBundleInvalid, match=says) as caught:
        build_backbone(Architecture(name=name), pooling=Pooling.GROUPED_ATTENTION, attention=SIZES)
    assert caught.value.metadata["field"] == "pooling"


def test_pooling_and_sizes_go_together() -> None:
    for options in ({"pooling": Pooling.GROUPED_ATTENTION}, {"attention": SIZES}):
        with pytest.raises(ModelBundleInvalid, match="go together"):
            build_backbone(Architecture(name="resnet18"), **options)


def test_the_random_state_of_the_caller_is_left() -> None:
    torch.manual_seed(5)
    build_backbone(Architecture(name="resnet18"), pooling=Pooling.GROUPED_ATTENTION, attention=SIZES)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == after


def grouped_bundle(folder: Path, *, name: str = "conv4") -> Path:
    own: dict[str, int] = {"image_size": 32, "width": 4, "groups": 3, "key_dim": 4, "value_dim": 2}
    architecture = Architecture(name=name, options=dict(own) if name == "conv4" else {})
    pooling = Pooling.NATIVE if name == "conv4" else Pooling.GROUPED_ATTENTION
    attention = None if name == "conv4" else SIZES
    torch.manual_seed(0)
    backbone = build_backbone(architecture, pooling=pooling, attention=attention).module
    for parameter in backbone.parameters():
        nn.init.kaiming_normal_(parameter) if parameter.ndim > 1 else nn.init.uniform_(parameter, 0.5, 1.5)
    preprocessing = Preprocessing(mode="L", resize=(32, 32)) if name == "conv4" else Preprocessing(resize=(64, 64))
    save_bundle(
        folder,
        architecture=architecture,
        pooling=pooling,
        attention=attention,
        loss=ProxyNcaSettings(),
        classes=CLASSES,
        preprocessing=preprocessing,
        state_dict=state_dict_of(backbone=backbone, head=nn.Linear(6, DIM), proxies=torch.randn(5, DIM)),
    )
    return folder


@pytest.mark.parametrize("name", ["conv4", "resnet18"])
def test_a_bundle_with_it_is_saved_checked_loaded_and_exported(tmp_path: Path, name: str) -> None:
    folder = grouped_bundle(tmp_path / "model", name=name)
    assert is_usable(check_bundle(folder))
    model = load_model(folder)
    found = find_attention(model.backbone)
    assert found is not None
    expected = find_attention(bundle_backbone(read_bundle(folder)).module)
    assert expected is not None
    assert found[1].query.shape == expected[1].query.shape == (3, 4)
    assert not torch.equal(found[1].query, expected[1].query)
    report = export_onnx(folder, tmp_path / "onnx", pictures(3))
    assert report.verification.max_abs_difference < 1e-4
    assert report.bundle.feature_dim == 6


def test_it_trains() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(conv4(image_size=32, width=4, groups=2, key_dim=4, value_dim=4), nn.Linear(8, 3))
    images, labels = draw(24, 1, 32, 32), torch.arange(24) % 3
    images = images + labels[:, None, None, None]
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch types backward so
        optimizer.step()
        losses.append(loss.item())
    attention = find_attention(network)
    assert attention is not None
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in attention[1].parameters())
    assert losses[-1] < 0.5 * losses[0]


def test_scopes_reach_its_parameters(tmp_path: Path) -> None:
    model = load_model(grouped_bundle(tmp_path / "model"))
    network = Network(model.backbone, model.head)
    names = {name for name, _ in network.named_parameters()}
    assert {"backbone.4.query", "backbone.4.key", "backbone.4.value", "head.weight"} <= names
    image = draw(1, 1, 32, 32)
    moved = {"backbone.4.query": model.backbone.get_parameter("4.query") + 1.0}
    assert not torch.equal(torch.func.functional_call(network, moved, (image,)), network(image))


def features(seed: int) -> Tensor:
    return draw(6, seed=seed).double()


def cosine(head: Head, first: Tensor, second: Tensor) -> float:
    return float(torch.cosine_similarity(head.embed(first[None])[0], head.embed(second[None])[0], dim=0))


def shares(head: Head, first: Tensor, second: Tensor, groups: int = 3) -> Tensor:
    one, other = (group_embeddings(x_F, head.weight_DF, head.bias_D, groups) for x_F in (first, second))
    return group_shares(one, other)


@pytest.mark.parametrize("dim", [6, 7])
@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_shares_of_groups_sum_to_the_cosine(dim: int, bias: float) -> None:
    head = Head(draw(dim, 6, seed=3).double(), bias * draw(dim, seed=4).double())
    first, second = features(5), features(6)
    found = shares(head, first, second)
    assert float(found.sum()) == pytest.approx(cosine(head, first, second), abs=1e-12)
    torch.testing.assert_close(found, shares(head, second, first))
    parts_GD = group_embeddings(first, head.weight_DF, head.bias_D, 3)
    torch.testing.assert_close(parts_GD.sum(0), head.embed(first[None])[0])


def test_with_a_head_made_of_blocks_a_share_is_the_product_of_the_groups_own_embeddings() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(2, 3).double() for _ in range(3)]
    merged = block_head(layers).double()
    head = Head(merged.weight.detach(), merged.bias.detach())
    first, second = features(5), features(6)
    own = [[layer(x_F[2 * group : 2 * group + 2]) for group, layer in enumerate(layers)] for x_F in (first, second)]
    torch.testing.assert_close(head.embed(first[None])[0], torch.cat(own[0]).detach(), rtol=0, atol=1e-6)
    norms = torch.cat(own[0]).norm() * torch.cat(own[1]).norm()
    expected = torch.stack([one @ other / norms for one, other in zip(*own, strict=True)]).detach()
    torch.testing.assert_close(shares(head, first, second), expected, rtol=0, atol=1e-6)


def test_a_group_that_sees_nothing_has_no_share() -> None:
    head = Head(draw(6, 6, seed=3).double(), torch.zeros(6, dtype=torch.float64))
    first, second = features(5), features(6)
    first[2:4] = second[2:4] = 0
    found = shares(head, first, second)
    assert abs(float(found[1])) < 1e-12
    assert float(found[0].abs()) > 1e-3


def test_one_group_has_it_all() -> None:
    head = Head(draw(6, 6, seed=3).double(), draw(6, seed=4).double())
    first, second = features(5), features(6)
    assert shares(head, first, second, groups=1).tolist() == pytest.approx([cosine(head, first, second)])

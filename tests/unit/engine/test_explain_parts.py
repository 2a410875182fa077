"""Finding the feature map, and reading parts from it, on networks of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eif_engine.errors import FeatureMapMissing
from eif_engine.models.architectures import build_backbone
from eif_engine.models.attention import GroupedAttention, find_attention
from eif_engine.models.bundle import Architecture, AttentionSettings, FeatureNorm, Pooling
from eif_engine.models.feature_map import FeatureMap, features_of_maps, find_feature_map, read_map
from eif_engine.models.head import Head
from eif_engine.models.parts import ImageParts, image_parts

SIZES = AttentionSettings(groups=4, key_dim=8, value_dim=3)


def network(name: str, **options: Any) -> nn.Module:
    """With weights that let an image through."""
    torch.manual_seed(0)
    architecture = Architecture(name=name, options=options.pop("options", {}))
    module = build_backbone(architecture, **options).module
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(child.weight)
    return module


def image(shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def parts_of(module: nn.Module, shape: tuple[int, int, int]) -> tuple[ImageParts, FeatureMap, Head]:
    place = find_feature_map(module, shape)
    with torch.inference_mode():
        features = module(image(shape)[None]).shape[1]
    generator = torch.Generator().manual_seed(1)
    head = Head(torch.randn(5, features, generator=generator), torch.randn(5, generator=generator))
    attention = find_attention(module)
    return image_parts(module, head, place, image(shape), attention and attention[1]), place, head


@pytest.mark.parametrize(
    ("name", "size", "layer", "grid"),
    [
        ("resnet18", 96, "layer4", (512, 3, 3)),
        ("resnet18", 32, "layer3", (256, 2, 2)),
        ("mobilenet_v2", 96, "features", (1280, 3, 3)),
        ("densenet121", 96, "features", (1024, 3, 3)),
        ("shufflenet_v2_x1_0", 96, "conv5", (1024, 3, 3)),
        ("swin_t", 96, "permute", (768, 3, 3)),
    ],
)
def test_the_last_map_through_which_everything_passes(
    name: str, size: int, layer: str, grid: tuple[int, int, int]
) -> None:
    place = find_feature_map(network(name), (3, size, size))
    assert (place.layer, (place.channels, place.rows, place.columns)) == (layer, grid)


def test_a_map_laid_out_flat_and_one_before_its_last_pooling() -> None:
    assert find_feature_map(network("conv4"), (1, 32, 32)).layer == "3"
    place = find_feature_map(network("conv4", options={"image_size": 16}), (1, 16, 16))
    assert (place.layer, place.rows) == ("3.2", 2)


class Around(nn.Module):
    """What goes around a map is seen: here the last one is not all that reaches the features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        early = self.first(images_BCHW)
        return torch.cat([early.mean((2, 3)), self.second(early).mean((2, 3))], dim=1)


def test_a_map_that_a_branch_goes_around_is_passed_over() -> None:
    assert find_feature_map(Around().eval(), (1, 8, 8)).layer == "first"


class Twice(nn.Module):
    """One module, called for two maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 1, 3), nn.ReLU()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features_BF: Tensor = self.relu(self.conv(self.relu(self.conv(images_BCHW)))).mean((2, 3))
        return features_BF


def test_a_module_called_twice_counts_its_calls() -> None:
    place = find_feature_map(Twice().eval(), (1, 9, 9))
    assert (place.layer, place.call, place.rows) == ("relu", 1, 5)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("mlp", (1, 8, 8), "mlp has no feature map"),
        ("vit_b_16", (3, 224, 224), "sequence of tokens"),
    ],
)
def test_networks_without_a_map_are_refused(name: str, shape: tuple[int, int, int], says: str) -> None:
    with pytest.raises(FeatureMapMissing, match=says) as caught:
        find_feature_map(network(name), shape, name=name)
    assert caught.value.reason == "FEATURE_MAP_MISSING"
    assert caught.value.metadata == {"architecture": name}


def test_a_map_of_too_many_parts_is_refused() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert find_feature_map(module, (1, 32, 32)).parts == 1024
    with pytest.raises(FeatureMapMissing, match="33 x 32 parts, over 1,024"):
        find_feature_map(module, (1, 33, 32))


def test_the_tail_makes_features_of_maps_whatever_the_image() -> None:
    module = network("resnet18")
    place = find_feature_map(module, (3, 64, 64))
    images_BCHW = torch.stack([image((3, 64, 64), seed) for seed in (0, 1, 2)])
    maps_BCHW, features_BF = read_map(module, place, images_BCHW)
    again = features_of_maps(module, place, image((3, 64, 64), 7), maps_BCHW)
    torch.testing.assert_close(again, features_BF)
    with torch.inference_mode():
        torch.testing.assert_close(module(images_BCHW), features_BF, rtol=0, atol=0)


def test_looking_leaves_no_hooks() -> None:
    module = network("resnet18")
    place = find_feature_map(module, (3, 64, 64))
    read_map(module, place, image((3, 64, 64))[None])
    assert not any(child._forward_hooks for child in module.modules())


def test_after_average_pooling_a_part_by_itself_is_the_head_on_its_cell() -> None:
    module = network("resnet18")
    parts, place, head = parts_of(module, (3, 96, 96))
    cells_UC = read_map(module, place, image((3, 96, 96))[None])[0][0].flatten(1).T
    expected = cells_UC.double() @ head.weight_DF.T.double() + head.bias_D.double()
    torch.testing.assert_close(parts.alone_UD, expected, rtol=1e-5, atol=1e-5)
    assert parts.added_UD is not None
    torch.testing.assert_close(parts.added_UD, expected, rtol=1e-5, atol=1e-5)


def test_after_maximum_pooling_a_part_by_itself_is_the_head_on_its_cell_and_adds_the_channels_it_won() -> None:
    module = network("resnet18", pooling=Pooling.MAX)
    parts, place, head = parts_of(module, (3, 96, 96))
    cells_UC = read_map(module, place, image((3, 96, 96))[None])[0][0].flatten(1).T.double()
    weight_DF, bias_D = head.weight_DF.double(), head.bias_D.double()
    torch.testing.assert_close(parts.alone_UD, cells_UC @ weight_DF.T + bias_D, rtol=1e-5, atol=1e-5)
    expected = torch.zeros(9, 5, dtype=torch.float64)
    for channel in range(cells_UC.shape[1]):
        best = cells_UC[:, channel].max()
        winners = [part for part in range(9) if cells_UC[part, channel] == best]
        for part in winners:
            expected[part] += 9 * best / len(winners) * weight_DF[:, channel]
    assert parts.added_UD is not None
    torch.testing.assert_close(parts.added_UD, expected + bias_D, rtol=1e-4, atol=1e-4)


def test_a_part_of_a_flat_map_is_what_it_adds() -> None:
    module = network("conv4")
    parts, place, head = parts_of(module, (1, 32, 32))
    map_CHW = read_map(module, place, image((1, 32, 32))[None])[0][0].double()
    weight_DCHW = head.weight_DF.double().reshape(5, *map_CHW.shape)
    expected = 4 * torch.einsum("chw,dchw->hwd", map_CHW, weight_DCHW).reshape(4, 5) + head.bias_D.double()
    assert parts.added_UD is parts.alone_UD
    torch.testing.assert_close(parts.alone_UD, expected, rtol=1e-4, atol=1e-4)


def test_what_a_part_adds_under_attention() -> None:
    module = network("conv4", options={"image_size": 64, "groups": 4, "key_dim": 8, "value_dim": 3})
    parts, place, head = parts_of(module, (1, 64, 64))
    cells_UC = read_map(module, place, image((1, 64, 64))[None])[0][0].flatten(1).T.double()
    attention = find_attention(module)
    assert attention is not None
    assert parts.attention_GU is not None
    torch.testing.assert_close(parts.attention_GU.sum(1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-6)
    value_GVC = attention[1].value.double()
    assert parts.added_UD is not None
    for part in (0, 5, 15):
        x_F = torch.cat([16 * parts.attention_GU[g, part] * (value_GVC[g] @ cells_UC[part]) for g in range(4)])
        expected = head.weight_DF.double() @ x_F + head.bias_D.double()
        torch.testing.assert_close(parts.added_UD[part], expected, rtol=1e-4, atol=1e-4)
    everywhere = torch.cat([value_GVC[g] @ cells_UC[5] for g in range(4)])
    alone = head.weight_DF.double() @ everywhere + head.bias_D.double()
    torch.testing.assert_close(parts.alone_UD[5], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("resnet18", 96, {}),
        ("resnet18", 96, {"feature_norm": FeatureNorm.LAYER_NORM}),
        ("resnet18", 96, {"pooling": Pooling.MAX, "feature_norm": FeatureNorm.LAYER_NORM}),
        ("resnet18", 96, {"pooling": Pooling.GROUPED_ATTENTION, "attention": SIZES}),
        (
            "resnet18",
            96,
            {"pooling": Pooling.GROUPED_ATTENTION, "attention": SIZES, "feature_norm": FeatureNorm.LAYER_NORM},
        ),
        ("mobilenet_v2", 96, {"pooling": Pooling.MAX}),
        ("densenet121", 96, {}),
    ],
    ids=["average", "norm", "maximum-norm", "attention", "attention-norm", "mobilenet", "rectified"],
)
def test_what_parts_add_averages_to_the_embedding(name: str, size: int, options: dict[str, Any]) -> None:
    module = network(name, **options)
    parts, place, _ = parts_of(module, (3, size, size))
    assert parts.added_UD is not None
    assert len(parts.added_UD) == place.parts
    torch.testing.assert_close(parts.added_UD.mean(0), parts.embedding_D, rtol=0, atol=1e-9)
    assert parts.added_UD.std(dim=0).min() > 1e-3


def test_where_no_reading_is_exact_none_is_given() -> None:
    parts, _, _ = parts_of(network("mobilenet_v3_small"), (3, 96, 96))
    assert parts.added_UD is None
    assert parts.alone_UD.shape == (9, 5)


def test_attention_over_one_cell_looks_at_all_parts_alike() -> None:
    module = network("conv4", options={"image_size": 16, "groups": 2, "key_dim": 8, "value_dim": 3})
    parts, place, _ = parts_of(module, (1, 16, 16))
    assert place.parts == 4
    assert parts.attention_GU is not None
    assert parts.attention_GU.tolist() == [[0.25] * 4] * 2
    assert parts.added_UD is None


class Rectified(nn.Module):
    """Attention over a map that no module gave."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 6, 3), GroupedAttention(6, SIZES)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features_BF: Tensor = self.pool(self.conv(images_BCHW).relu())
        return features_BF


def test_attention_is_that_over_the_map_it_was_given() -> None:
    torch.manual_seed(0)
    module = Rectified().eval().requires_grad_(requires_grad=False)
    parts, place, _ = parts_of(module, (1, 8, 8))
    expected = module.pool.attention(module.conv(image((1, 8, 8))[None]).relu())[0].double()
    assert place.layer == "conv"
    assert parts.attention_GU is not None
    torch.testing.assert_close(parts.attention_GU, expected)
    assert parts.added_UD is not None
    torch.testing.assert_close(parts.added_UD.mean(0), parts.embedding_D, rtol=0, atol=1e-9)
    assert not module.pool._forward_pre_hooks

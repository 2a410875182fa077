from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from eif_engine.errors import ModelBundleInvalid
from eif_engine.models import architectures
from eif_engine.models.architectures import build_backbone, installed_architectures
from eif_engine.models.bundle import Architecture, FeatureNorm, Pooling


def fault(
    name: str,
    pooling: Pooling = Pooling.NATIVE,
    norm: FeatureNorm = FeatureNorm.NONE,
    options: dict[str, object] | None = None,
) -> str:
    architecture = Architecture.model_validate({"name": name, "options": options or {}})
    with pytest.raises(ModelBundleInvalid) as caught:
        build_backbone(architecture, pooling=pooling, feature_norm=norm)
    assert caught.value.metadata["field"]
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "size", "features", "cut"),
    [
        ("resnet18", 64, 512, "fc"),
        ("resnet50", 64, 2048, "fc"),
        ("mobilenet_v2", 64, 1280, "classifier.1"),
        ("mobilenet_v3_small", 64, 1024, "classifier.3"),
        ("densenet121", 64, 1024, "classifier"),
        ("efficientnet_b0", 64, 1280, "classifier.1"),
        ("convnext_tiny", 64, 768, "classifier.2"),
        ("vit_b_16", 224, 768, "heads.head"),
        ("regnet_x_400mf", 64, 400, "fc"),
        ("googlenet", 64, 1024, "fc"),
    ],
)
def test_torchvision_networks_are_cut_before_the_classifier(name: str, size: int, features: int, cut: str) -> None:
    backbone = build_backbone(Architecture(name=name))
    assert backbone.cut == cut
    assert not backbone.module.training
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())
    with torch.inference_mode():
        assert backbone.module(torch.zeros(2, 3, size, size)).shape == (2, features)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_features_are_what_torchvision_gives_its_classifier(name: str) -> None:
    torch.manual_seed(0)
    network = torchvision_models.get_model(name, weights=None).eval()
    backbone = build_backbone(Architecture(name=name))
    state = {key: value for key, value in network.state_dict().items() if not key.startswith(backbone.cut)}
    backbone.module.load_state_dict(state)
    images = torch.randn(3, 3, 64, 64)
    classifier = network.get_submodule(backbone.cut)
    with torch.inference_mode():
        torch.testing.assert_close(classifier(backbone.module(images)), network(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("pooling", [Pooling.AVG, Pooling.MAX])
def test_pooling_is_over_the_last_feature_map(name: str, pooling: Pooling) -> None:
    torch.manual_seed(0)
    native = build_backbone(Architecture(name=name))
    pooled = build_backbone(Architecture(name=name), pooling=pooling)
    pooled.module.load_state_dict(native.module.state_dict())
    images = torch.randn(2, 3, 96, 96)
    trunk = native.module.features if name == "mobilenet_v2" else nn.Sequential(*list(native.module.children())[:-2])
    assert isinstance(trunk, nn.Module)
    with torch.inference_mode():
        feature_map = trunk(images)
        expected = feature_map.mean((2, 3)) if pooling is Pooling.AVG else feature_map.amax((2, 3))
        torch.testing.assert_close(pooled.module(images), expected)
        if pooling is Pooling.AVG:
            torch.testing.assert_close(pooled.module(images), native.module(images))


def test_layer_norm_has_no_weights_and_makes_features_standard() -> None:
    architecture = Architecture(name="resnet18")
    backbone = build_backbone(architecture, feature_norm=FeatureNorm.LAYER_NORM)
    assert backbone.module.state_dict().keys() == build_backbone(architecture).module.state_dict().keys()
    with torch.inference_mode():
        features = backbone.module(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(features.mean(dim=1), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.std(dim=1, correction=0), torch.ones(2), atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("options", "size", "features"),
    [({}, 32, 512), ({"image_size": 16}, 16, 128), ({"in_channels": 3, "width": 8, "image_size": 48}, 48, 144)],
)
def test_conv4(options: dict[str, int], size: int, features: int) -> None:
    backbone = build_backbone(Architecture(name="conv4", options=dict(options)))
    with torch.inference_mode():
        images = torch.zeros(2, options.get("in_channels", 1), size, size)
        assert backbone.module(images).shape == (2, features)


def test_mlp() -> None:
    backbone = build_backbone(Architecture(name="mlp", options={"image_size": 5, "in_channels": 3, "features": 7}))
    with torch.inference_mode():
        assert backbone.module(torch.zeros(4, 3, 5, 5)).shape == (4, 7)


def test_what_is_installed_is_listed() -> None:
    names = installed_architectures()
    assert names["conv4"] == "eif_engine.models.small:conv4"
    assert names["mlp"] == "eif_engine.models.small:mlp"
    assert {name for name, source in names.items() if source == "torchvision"} >= {"resnet18", "resnet50", "vit_b_16"}


def test_an_unknown_name_lists_what_is_installed_and_what_is_near() -> None:
    message = fault("resnet5O")
    assert "no architecture 'resnet5O' (did you mean resnet50" in message
    assert "conv4, mlp" in message
    assert "mobilenet_v2" in message


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("conv4", {"depth": 5}, "does not take options"),
        ("conv4", {"width": 0}, "width must be a whole number of at least 1, not 0"),
        ("conv4", {"width": "64"}, "width must be a whole number of at least 1, not '64'"),
        ("conv4", {"image_size": 8}, "image_size must be a whole number of at least 16"),
        ("mlp", {"hidden": True}, "hidden must be a whole number"),
        ("resnet18", {"depth": 5}, "does not take options"),
        ("resnet18", {"weights": "DEFAULT"}, "architecture.options.weights is not an option"),
        ("resnet18", {"progress": True}, "architecture.options.progress is not an option"),
        ("squeezenet1_0", {}, "no linear layer to cut off"),
    ],
)
def test_options_that_are_not_taken_are_named(name: str, options: dict[str, object], says: str) -> None:
    assert says in fault(name, options=options)


def test_options_cannot_fill_the_memory() -> None:
    assert "parameters, over the limit of 2,000,000,000" in fault("conv4", options={"width": 1_000_000})
    assert "parameters, over the limit" in fault("mlp", options={"hidden": 2**40})


def test_pooling_that_a_network_does_not_have_is_refused() -> None:
    assert "pooling max is not available for VisionTransformer" in fault("vit_b_16", Pooling.MAX)
    assert "conv4 does its own pooling" in fault("conv4", Pooling.MAX)
    assert "conv4 does its own pooling and normalisation" in fault("conv4", norm=FeatureNorm.LAYER_NORM)


def test_no_weights_are_ever_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    for name in ("resnet18", "densenet121", "googlenet"):
        build_backbone(Architecture(name=name))


def test_building_leaves_the_random_state_as_it_was() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build_backbone(Architecture(name="conv4", options={"width": 4}))
    assert (torch.get_rng_state() == before).all()


def test_an_entry_point_that_cannot_be_imported_or_gives_no_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def install(value: str) -> None:
        points = EntryPoints([EntryPoint("theirs", value, architectures.ENTRY_POINT_GROUP)])
        monkeypatch.setattr(architectures, "entry_points", points.select)

    install("no_such_package.networks:build")
    assert "theirs (no_such_package.networks:build) is installed but cannot be imported" in fault("theirs")
    install("builtins:dict")
    assert "theirs gave a dict, not a torch.nn.Module" in fault("theirs")


def test_an_installed_package_brings_its_own_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_networks.py").write_text(
        "from torch import nn\n\ndef flat(*, size):\n    return nn.Sequential(nn.Flatten(), nn.Linear(size, 3))\n"
    )
    info = tmp_path / "their_networks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-networks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[eif.architectures]\nflat = their_networks:flat\n")
    monkeypatch.syspath_prepend(tmp_path)
    backbone = build_backbone(Architecture(name="flat", options={"size": 4}))
    assert backbone.module(torch.zeros(2, 1, 2, 2)).shape == (2, 3)

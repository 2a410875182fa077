from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision import models as torchvision_models

from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import CheckpointIncompatible, DeviceUnavailable, EifError, ModelBundleInvalid
from eif_engine.losses.proxy_nca import ProxyNCA
from eif_engine.losses.settings import ProxyNcaSettings, SoftTripleSettings
from eif_engine.losses.soft_triple import SoftTriple
from eif_engine.models.bundle import Architecture
from eif_engine.models.checkpoint import load_model
from eif_engine.models.loaded import LoadedModel
from eif_engine.models.save import save_bundle, state_dict_of
from tests.bundles import CLASSES, CONV4, DIM, SMALL, changed, edit, point_at, put_weights, small_bundle, small_state


def same(model: LoadedModel, state: dict[str, Tensor]) -> None:
    for key, value in model.backbone.state_dict().items():
        torch.testing.assert_close(value, state[f"backbone.{key}"], rtol=0, atol=0, check_dtype=False)
    torch.testing.assert_close(model.head.weight_DF, state["head.weight"], rtol=0, atol=0)
    torch.testing.assert_close(model.head.bias_D, state["head.bias"], rtol=0, atol=0)


def proxies_of(model: LoadedModel) -> Tensor:
    assert isinstance(model.loss, ProxyNCA)
    return model.loss.proxies_CD


def centers_of(model: LoadedModel) -> Tensor:
    assert isinstance(model.loss, SoftTriple)
    return model.loss.centers_CKD


def fault(folder: Path, kind: type[EifError] = CheckpointIncompatible) -> str:
    with pytest.raises(EifError) as caught:
        load_model(folder)
    assert type(caught.value) is kind
    return caught.value.message


def test_a_saved_bundle_loads_as_it_was(tmp_path: Path) -> None:
    state = small_state()
    model = load_model(small_bundle(tmp_path))
    same(model, state)
    torch.testing.assert_close(proxies_of(model), state["loss.proxies"], rtol=0, atol=0)
    assert model.classes == CLASSES
    assert model.preprocessing == SMALL
    assert not model.backbone.training
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert model.weights_sha256 in (tmp_path / "model.json").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "weights.safetensors"]


@pytest.mark.parametrize("centers", [1, 3])
def test_centres_of_soft_triple_load(tmp_path: Path, centers: int) -> None:
    model = load_model(small_bundle(tmp_path, centers=centers))
    torch.testing.assert_close(centers_of(model), small_state(centers=centers)["loss.centers"], rtol=0, atol=0)
    assert isinstance(model.loss, SoftTriple)
    assert (model.loss.lambda_, model.loss.gamma, model.loss.margin) == (20.0, 0.1, 0.01)


def parallel(state: dict[str, Tensor]) -> object:
    return {f"module.{key}": value for key, value in state.items()}


WRAPPERS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": dict,
    "ordered": OrderedDict,
    "parameters": lambda state: {
        key: nn.Parameter(value) if value.is_floating_point() else value for key, value in state.items()
    },
    "data-parallel": parallel,
    "training checkpoint": lambda state: {
        "epoch": 3,
        "arch": "conv4",
        "state_dict": parallel(state),
        "optimizer": {
            "state": {0: {"step": torch.tensor(5.0), "exp_avg": torch.zeros(3)}},
            "param_groups": [{"lr": 0.1}],
        },
        "args": {"seed": 0, "crop": (224, 224), "note": None},
    },
    "model_state_dict": lambda state: {"model_state_dict": state, "loss": 0.5},
    "model": lambda state: {"model": state, "best": torch.tensor(0.7)},
    "bare network": lambda state: {key.removeprefix("backbone."): value for key, value in state.items()},
    "proxies at the top": lambda state: {
        "state_dict": {key: value for key, value in state.items() if not key.startswith("loss.")},
        "proxies": state["loss.proxies"],
    },
    "without counters": lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_state_dict_is_found_however_it_was_wrapped(tmp_path: Path, wrapper: str) -> None:
    state = small_state()
    put_weights(small_bundle(tmp_path), WRAPPERS[wrapper](state))
    model = load_model(tmp_path)
    same(model, {**state, **{k: torch.tensor(0) for k in state if k.endswith("num_batches_tracked")}})
    torch.testing.assert_close(proxies_of(model), state["loss.proxies"], rtol=0, atol=0)


def test_the_older_stream_of_torch_save_loads(tmp_path: Path) -> None:
    state = small_state()
    torch.save({"state_dict": state}, small_bundle(tmp_path) / "old.pth", _use_new_zipfile_serialization=False)
    same(load_model(point_at(tmp_path, "old.pth")), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in small_state().items()}
    save_file(state, small_bundle(tmp_path) / "half.safetensors")
    model = load_model(point_at(tmp_path, "half.safetensors"))
    same(model, {k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    assert {p.dtype for p in model.backbone.parameters()} == {torch.float32}
    assert proxies_of(model).dtype == torch.float32


def test_a_head_without_bias_has_zeros(tmp_path: Path) -> None:
    state = changed(small_state(), head__bias=None)
    save_bundle(
        tmp_path,
        architecture=CONV4,
        loss=ProxyNcaSettings(),
        classes=CLASSES,
        preprocessing=SMALL,
        state_dict=state,
    )
    assert load_model(tmp_path).head.bias_D.tolist() == [0.0] * DIM


def test_views_of_one_storage_and_tied_weights_load(tmp_path: Path) -> None:
    state = small_state()
    both = torch.stack([state["backbone.0.1.weight"], state["backbone.0.1.bias"]])
    put_weights(small_bundle(tmp_path), changed(state, backbone__0__1__weight=both[0], backbone__0__1__bias=both[1]))
    same(load_model(tmp_path), state)


# ------------------------------------------------------------------------------------------- layouts of other code


class PublishedFeature(nn.Module):
    """The published network: a torchvision model as `base`, pooled by maximum, layer norm without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.base = torchvision_models.resnet18(weights=None)
        self.lnorm = nn.LayerNorm(512, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        for name, child in self.base.named_children():
            if name not in {"avgpool", "fc"}:
                x = child(x)
        features: Tensor = self.lnorm(torch.amax(x, (2, 3)))
        return features


@pytest.fixture(scope="module")
def published() -> nn.Module:
    torch.manual_seed(0)
    return nn.DataParallel(nn.Sequential(PublishedFeature(), nn.Linear(512, DIM))).eval()


def published_bundle(folder: Path, network: nn.Module, proxies: object, *, soft_triple: int = 0) -> Path:
    fields = {
        "architecture": {"name": "resnet18"},
        "pooling": "max",
        "feature_norm": "layer_norm",
        "embedding_dim": DIM,
        "loss": {"name": "soft_triple", "centers_per_class": soft_triple} if soft_triple else {"name": "proxy_nca"},
        "classes": list(CLASSES),
        "preprocessing": {"resize": [64, 64]},
    }
    (folder / "model.json").write_text("{}")
    edit(folder, **fields)
    put_weights(folder, network.state_dict(), name="cub_cub_trainval_512_0.pth", format="eif_published")
    return put_weights(folder, proxies, name="proxy.pth", field="proxies")


@pytest.mark.parametrize("wrap", [True, False])
def test_the_published_layout_gives_the_published_embedding(tmp_path: Path, published: nn.Module, wrap: bool) -> None:
    proxies = torch.randn(len(CLASSES), DIM)
    published_bundle(tmp_path, published, {"proxies": nn.Parameter(proxies)} if wrap else proxies)
    model = load_model(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = model.backbone(images)
        torch.testing.assert_close(model.head.embed(features), published.module(images))  # type: ignore[operator]  # DataParallel.module
    torch.testing.assert_close(proxies_of(model), proxies, rtol=0, atol=0)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("layout", ["fc", "proxies", "centers", "tensor", "nested"])
def test_soft_triple_centres_of_one_class_lie_side_by_side(
    tmp_path: Path, published: nn.Module, k: int, layout: str
) -> None:
    centers = torch.randn(len(CLASSES), k, DIM)
    rows = centers.reshape(-1, DIM)
    content = {
        "fc": {"fc": rows.T.contiguous()},
        "proxies": {"proxies": rows},
        "centers": {"centers": centers},
        "tensor": rows,
        "nested": {"state_dict": {"module.fc": rows.T.contiguous()}, "epoch": 1},
    }[layout]
    model = load_model(published_bundle(tmp_path, published, content, soft_triple=k))
    torch.testing.assert_close(centers_of(model), centers, rtol=0, atol=0)


def test_a_square_fc_is_read_by_columns(tmp_path: Path) -> None:
    """D = C * K = 10: only the name says which way round it is."""
    torch.manual_seed(0)
    centers = torch.randn(len(CLASSES), 2, 10)
    for name, value in (("fc", centers.reshape(10, 10).T), ("proxies", centers.reshape(10, 10))):
        folder = tmp_path / name
        state = small_state()
        state |= {"head.weight": torch.randn(10, 8), "head.bias": torch.zeros(10), "loss.centers": centers}
        del state["loss.proxies"]
        save_bundle(
            folder,
            architecture=CONV4,
            loss=SoftTripleSettings(centers_per_class=2),
            classes=CLASSES,
            preprocessing=SMALL,
            state_dict=state,
        )
        put_weights(folder, {name: value}, name="loss.pth", field="proxies")
        torch.testing.assert_close(centers_of(load_model(folder)), centers, rtol=0, atol=0)


def test_pretrained_half_precision_weights_load(tmp_path: Path, shared_dir: Path) -> None:
    source = load_file(shared_dir / "models" / "mobilenet_v2_imagenet_fp16.safetensors")
    state: dict[str, Tensor] = {f"backbone.{key}": value for key, value in source.items()}  # its classifier too
    torch.manual_seed(0)
    state |= {"head.weight": torch.randn(DIM, 1280), "loss.proxies": torch.randn(len(CLASSES), DIM)}
    save_bundle(
        tmp_path,
        architecture=Architecture(name="mobilenet_v2"),
        loss=ProxyNcaSettings(),
        classes=CLASSES,
        preprocessing=Preprocessing(resize=224, center_crop=224, mean=(0.5,), std=(0.5,)),
        state_dict=state,
    )
    model = load_model(tmp_path)
    network = torchvision_models.mobilenet_v2(weights=None).eval()
    network.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in source.items()}
    )
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32))
    with torch.inference_mode():
        torch.testing.assert_close(network.classifier[1](model.backbone(images)), network(images), rtol=0, atol=0)


# ----------------------------------------------------------------------------------------------------- what is wrong


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (small_bundle(tmp_path) / "weights.safetensors").unlink()
    message = fault(tmp_path, ModelBundleInvalid)
    assert "weights.file is weights.safetensors, but there is no such file" in message


def test_a_file_that_is_not_the_one_named_is_refused(tmp_path: Path) -> None:
    path = small_bundle(tmp_path) / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    assert "weights.safetensors has sha256" in fault(tmp_path, ModelBundleInvalid)


def test_missing_and_extra_keys_are_all_named_with_what_is_near(tmp_path: Path) -> None:
    state = small_state()
    del state["head.bias"]
    state["backbone.0.0.wieght"] = state.pop("backbone.0.0.weight")
    state["backbone.9.weight"] = torch.zeros(3)
    message = fault(put_weights(small_bundle(tmp_path), state))
    assert "weights.pt does not fit model.json" in message
    assert "2 key(s) missing: backbone.0.0.weight (there is backbone.0.0.wieght); head.bias" in message
    assert "2 key(s) that the model does not have: backbone.0.0.wieght; backbone.9.weight" in message


def test_long_lists_of_keys_are_cut(tmp_path: Path) -> None:
    state = {k: v for k, v in small_state().items() if not k.startswith("backbone.")}
    state |= {f"backbone.x{i}": torch.zeros(1) for i in range(100)}
    message = fault(put_weights(small_bundle(tmp_path), state))
    assert "and 92 more" in message
    assert len(message) < 2500


def test_wrong_shapes_name_both(tmp_path: Path) -> None:
    message = fault(put_weights(small_bundle(tmp_path), changed(small_state(), head__weight=torch.zeros(8, 9))))
    assert "head.weight is (8, 9), the model needs (8, 8)" in message


def test_another_embedding_dim_names_both(tmp_path: Path) -> None:
    message = fault(edit(small_bundle(tmp_path), embedding_dim=16))
    assert "head.weight is (8, 8), the model needs (16, 8)" in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["backbone.1.1.running_var", "head.weight", "loss.proxies"])
def test_values_that_are_not_finite_are_named(tmp_path: Path, key: str, bad: float) -> None:
    state = small_state()
    state[key] = state[key].clone()
    state[key].view(-1)[1] = bad
    message = fault(put_weights(small_bundle(tmp_path), state))
    assert "NaN or infinite" in message
    assert key.removeprefix("loss.") in message


def test_values_too_large_for_float32_are_named(tmp_path: Path) -> None:
    state = changed(small_state(), head__bias=torch.full((DIM,), 1e300, dtype=torch.float64))
    assert "1 key(s) with NaN or infinite values: head.bias" in fault(put_weights(small_bundle(tmp_path), state))


def test_classes_and_proxies_must_be_as_many(tmp_path: Path) -> None:
    message = fault(edit(small_bundle(tmp_path), classes=["a", "b"]))
    assert "loss.proxies has shape (5, 8), but model.json names 2 classes and embedding_dim 8" in message


def test_centers_per_class_must_fit(tmp_path: Path) -> None:
    loss = {"name": "soft_triple", "centers_per_class": 2}
    assert "(5, 2, 8), (10, 8) or (8, 10)" in fault(edit(small_bundle(tmp_path, centers=3), loss=loss))


def test_a_checkpoint_without_its_loss_says_how_to_save_it(tmp_path: Path) -> None:
    message = fault(put_weights(small_bundle(tmp_path), changed(small_state(), loss__proxies=None)))
    assert "no parameters of the loss proxy_nca" in message
    assert "torch.save(loss.state_dict(), ...)" in message


def test_a_checkpoint_without_tensors_is_named(tmp_path: Path) -> None:
    assert "holds no tensors: its keys are 'epoch'" in fault(put_weights(small_bundle(tmp_path), {"epoch": 3}))
    assert "holds a list, not a state dict" in fault(put_weights(tmp_path, [torch.zeros(2)]))


def test_images_that_the_network_does_not_take_are_refused(tmp_path: Path) -> None:
    message = fault(edit(small_bundle(tmp_path), preprocessing={"mode": "RGB", "resize": [16, 16]}), ModelBundleInvalid)
    assert "conv4 does not take the images of preprocessing" in message
    assert "(3, 16, 16)" in message


def test_images_of_another_size_give_other_features(tmp_path: Path) -> None:
    message = fault(edit(small_bundle(tmp_path), preprocessing={"mode": "L", "resize": [32, 32]}))
    assert "head.weight is (8, 8), the model needs (8, 32)" in message


def test_a_device_that_is_not_here_is_named(tmp_path: Path) -> None:
    small_bundle(tmp_path)
    for name in ("cuda:99", "tpu"):
        with pytest.raises(DeviceUnavailable, match=name):
            load_model(tmp_path, device=name)
    assert load_model(tmp_path, device="auto").head.weight_DF.shape == (DIM, 8)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"head__weight": None}, "the state dict has no head.weight"),
        ({"loss__proxies": None}, "the state dict has no loss.proxies"),
        ({"loss__proxies": torch.zeros(4, DIM)}, "5 classes and head.weight of 8 rows need (5, 8)"),
    ],
)
def test_saving_a_bundle_that_could_not_be_loaded_is_refused(
    tmp_path: Path, change: dict[str, Tensor | None], says: str
) -> None:
    with pytest.raises(CheckpointIncompatible) as caught:
        save_bundle(
            tmp_path / "m",
            architecture=CONV4,
            loss=ProxyNcaSettings(),
            classes=CLASSES,
            preprocessing=SMALL,
            state_dict=changed(small_state(), **change),
        )
    assert says in caught.value.message
    assert not (tmp_path / "m").exists()


def test_a_state_dict_is_made_of_the_parts_of_a_training_loop() -> None:
    state = state_dict_of(backbone=nn.Sequential(nn.Linear(3, 2)), head=nn.Linear(2, 4), proxies=torch.zeros(5, 2, 4))
    assert sorted(state) == ["backbone.0.bias", "backbone.0.weight", "head.bias", "head.weight", "loss.centers"]

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eif_engine.errors import ModelBundleInvalid
from eif_engine.losses.settings import SoftTripleSettings
from eif_engine.models.bundle import ModelBundle, model_key, parse_bundle, read_bundle
from eif_engine.models.onnx_bundle import parse_onnx_bundle, read_onnx_bundle

SHA = "ab" * 32
MODEL: dict[str, Any] = {
    "architecture": {"name": "conv4"},
    "embedding_dim": 8,
    "loss": {"name": "proxy_nca", "scale": 3},
    "classes": ["a", "b"],
    "preprocessing": {"mode": "L", "resize": [32, 32]},
    "weights": {"file": "weights.safetensors", "sha256": SHA},
}
ONNX: dict[str, Any] = {
    "onnx": {"file": "model.onnx", "sha256": SHA},
    "input": {"shape": [1, 32, 32]},
    "embedding_dim": 8,
    "feature_dim": 16,
    "opset": 18,
    "preprocessing": {"mode": "L", "resize": [32, 32]},
    "weights_sha256": SHA,
    "classes": ["a", "b"],
}


def model(**changes: Any) -> ModelBundle:
    return parse_bundle(json.dumps(MODEL | changes))


def test_a_bundle_survives_json() -> None:
    loss = {"name": "soft_triple", "lambda": 10, "centers_per_class": 3}
    bundle = model(loss=loss, proxies={"file": "proxy.pth", "sha256": SHA})
    assert parse_bundle(bundle.model_dump_json()) == bundle
    assert isinstance(bundle.loss, SoftTripleSettings)
    assert bundle.loss.lambda_ == 10
    assert '"lambda":10' in bundle.model_dump_json()
    assert [ref.file for ref in bundle.files] == ["weights.safetensors", "proxy.pth"]


def test_integer_classes_are_the_labels_of_a_manifest() -> None:
    assert model(classes=[10, 2, "x"]).classes == ("10", "2", "x")


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"classes": ["a", "a"]}, "classes", "class 'a' is named twice"),
        ({"classes": [1, "1"]}, "classes", "class '1' is named twice"),
        ({"classes": []}, "classes", "at least 1 item"),
        ({"classes": ["a\x1b[0m"]}, "classes.0", "control character"),
        ({"classes": [True]}, "classes.0", "valid string"),
        ({"embedding_dim": 0}, "embedding_dim", "greater than or equal to 1"),
        ({"embeding_dim": 8}, "embeding_dim", "unknown field; check its spelling"),
        ({"schema_version": 2}, "schema_version", "should be 1"),
        ({"loss": {"name": "triplet"}}, "loss", "'proxy_nca', 'soft_triple'"),
        ({"loss": {"name": "proxy_nca", "scale": -1}}, "loss.proxy_nca.scale", "greater than 0"),
        ({"loss": {"name": "proxy_nca", "margin": 1}}, "loss.proxy_nca.margin", "unknown field"),
        ({"pooling": "gem"}, "pooling", "'native', 'avg', 'max' or 'grouped_attention'"),
        ({"pooling": "grouped_attention"}, "", "attention and pooling grouped_attention go together"),
        ({"attention": {"groups": 2}}, "", "attention and pooling grouped_attention go together"),
        ({"attention": {"groups": 0}}, "attention.groups", "greater than or equal to 1"),
        ({"attention": {"groups": 256, "value_dim": 4096}}, "attention", "over 65,536"),
        ({"preprocessing": {"resize": 32}}, "preprocessing", "add center_crop"),
        ({"weights": {"file": "../w.pt", "sha256": SHA}}, "weights.file", "match pattern"),
        ({"weights": {"file": "/etc/passwd", "sha256": SHA}}, "weights.file", "match pattern"),
        ({"weights": {"file": "a\\b.pt", "sha256": SHA}}, "weights.file", "match pattern"),
        ({"weights": {"file": "w.pt\n", "sha256": SHA}}, "weights.file", "match pattern"),
        ({"weights": {"file": "model.pt2", "sha256": SHA}}, "weights", "not .safetensors, .pt or .pth"),
        ({"weights": {"file": "w.pt", "sha256": "abc"}}, "weights.sha256", "match pattern"),
        ({"weights": {"file": "w.pt"}}, "weights.sha256", "is missing"),
        ({"weights": {"file": "w.pt", "sha256": SHA, "format": "eif_published"}}, "", "proxies is missing"),
        ({"architecture": {"name": "os;system"}}, "architecture.name", "match pattern"),
        ({"architecture": {"name": "conv4", "code": "x"}}, "architecture.code", "unknown field"),
    ],
)
def test_a_fault_names_its_field(changes: dict[str, object], field: str, says: str) -> None:
    with pytest.raises(ModelBundleInvalid) as caught:
        model(**changes)
    assert caught.value.message.startswith("model.json: ")
    assert says in caught.value.message
    assert caught.value.metadata == {"uri": "model.json", "field": field}


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(ModelBundleInvalid) as caught:
        model(embedding_dim="x", classes=[], pooling="gem")
    for field in ("embedding_dim", "classes", "pooling"):
        assert field in caught.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"classes": [' + "1," * 100 + "]}", "\ud800"])
def test_text_that_is_no_bundle_is_refused(text: str) -> None:
    with pytest.raises(ModelBundleInvalid, match=r"^model.json"):
        parse_bundle(text.encode("utf-8", "surrogatepass"))


def test_a_bundle_over_the_size_limit_is_refused() -> None:
    with pytest.raises(ModelBundleInvalid, match="over 16,777,216 bytes"):
        parse_bundle(b" " * (17 * 2**20))


def test_a_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelBundleInvalid, match=f"model.json cannot be read from {tmp_path}: No such file"):
        read_bundle(tmp_path)
    with pytest.raises(ModelBundleInvalid, match=r"onnx.json cannot be read"):
        read_onnx_bundle(tmp_path)


def test_the_model_key_is_stable_over_versions() -> None:
    """Cached features are found by it: if this changes, every cache is lost, so raise FEATURES_VERSION on purpose."""
    assert model_key(model()) == "8f8574150b28a51299bb0b2b86d344c2ea1cb01111160af3a15108813adb16ac"


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": {"name": "mlp"}},
        {"architecture": {"name": "conv4", "options": {"width": 8}}},
        {"pooling": "max"},
        {"pooling": "grouped_attention", "attention": {"groups": 2}},
        {"feature_norm": "layer_norm"},
        {"preprocessing": {"mode": "L", "resize": [32, 31]}},
        {"preprocessing": {"mode": "L", "resize": [32, 32], "mean": [0.1]}},
        {"preprocessing": {"mode": "L", "resize": [32, 32], "invert": True}},
        {"weights": {"file": "weights.safetensors", "sha256": "cd" * 32}},
    ],
)
def test_the_model_key_changes_with_whatever_features_depend_on(changes: dict[str, object]) -> None:
    assert model_key(model(**changes)) != model_key(model())


def test_the_model_key_changes_with_the_sizes_of_attention() -> None:
    keys = [
        model_key(model(pooling="grouped_attention", attention={"groups": groups, "value_dim": dim}))
        for groups, dim in ((2, 8), (4, 8), (2, 16))
    ]
    assert len(set(keys)) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["x", "y", "z"]},
        {"loss": {"name": "proxy_nca", "scale": 5}},
        {"embedding_dim": 16},
        {"weights": {"file": "other_name.pt", "sha256": SHA}},
    ],
)
def test_the_model_key_is_the_same_where_features_are(changes: dict[str, object]) -> None:
    assert model_key(model(**changes)) == model_key(model())


def test_an_onnx_bundle_survives_json() -> None:
    bundle = parse_onnx_bundle(json.dumps(ONNX))
    assert parse_onnx_bundle(bundle.model_dump_json()) == bundle
    assert (bundle.input.name, bundle.outputs.embedding, bundle.outputs.features) == ("images", "embedding", "features")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"input": {"shape": [3, 32, 32]}}, r"input.shape is \[3, 32, 32\], but preprocessing gives \[1, 32, 32\]"),
        ({"onnx": {"file": "model.bin", "sha256": SHA}}, "is not .onnx"),
        ({"onnx": {"file": "../model.onnx", "sha256": SHA}}, "onnx.file"),
        ({"external_data": [{"file": "../../etc/passwd", "sha256": SHA}]}, "external_data.0.file"),
        ({"external_data": [{"file": "model.onnx", "sha256": SHA}]}, "name a file twice"),
        ({"external_data": [{"file": f"w{i}", "sha256": SHA} for i in range(65)]}, "at most 64"),
        ({"opset": 3}, "opset"),
        ({"weights_sha256": "x"}, "weights_sha256"),
        ({"feature_dim": 0}, "feature_dim is 0"),
        ({"outputs": {"features": None}}, "feature_dim is 16"),
        ({"custom_ops": "evil.so"}, "custom_ops: unknown field"),
    ],
)
def test_a_fault_of_an_onnx_bundle_names_its_field(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ModelBundleInvalid, match=says) as caught:
        parse_onnx_bundle(json.dumps(ONNX | changes))
    assert caught.value.message.startswith("onnx.json: ")


def test_schemas_and_data_need_no_torch() -> None:
    modules = ["data.manifest", "data.images", "data.preprocessing", "models.bundle", "models.onnx_bundle"]
    imports = "; ".join(f"import eif_engine.{name}" for name in modules)
    script = f"{imports}; import sys; assert not {{'torch', 'torchvision', 'onnx'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True)

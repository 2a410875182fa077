from __future__ import annotations

import argparse
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from eif_engine.cli import export_onnx as command
from eif_engine.data.images import decode_image
from eif_engine.data.preprocessing import Preprocessing
from eif_engine.errors import CheckpointIncompatible, EifError, ImageInvalid, InvalidInput, OnnxInvalid
from eif_engine.losses.settings import ProxyNcaSettings
from eif_engine.models import export
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import Architecture
from eif_engine.models.checkpoint import load_model
from eif_engine.models.digests import file_sha256
from eif_engine.models.export import ExportReport, export_onnx
from eif_engine.models.onnx_bundle import read_onnx_bundle
from eif_engine.models.save import save_bundle, state_dict_of
from tests.bundles import CLASSES, DIM, edit, small_bundle


def pictures(count: int = 5, side: int = 40) -> list[bytes]:
    """Smooth colour gradients, as PNG."""
    found = []
    for number in range(count):
        wave = np.sin(np.arange(side) * (0.1 + 0.07 * number))
        plane = np.multiply.outer(wave, np.cos(np.arange(side) * 0.13 * (number + 1)))
        pixels = (127.5 + 127.5 * np.stack([plane, -plane, plane**2], axis=2)).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def torchvision_bundle(folder: Path, name: str, side: int = 64) -> Path:
    torch.manual_seed(0)
    backbone = build_backbone(Architecture(name=name)).module
    with torch.inference_mode():
        features = backbone(torch.zeros(1, 3, side, side)).shape[1]
    save_bundle(
        folder,
        architecture=Architecture(name=name),
        loss=ProxyNcaSettings(),
        classes=CLASSES,
        preprocessing=Preprocessing(resize=side, center_crop=side, mean=(0.5,), std=(0.5,)),
        state_dict=state_dict_of(backbone=backbone, head=nn.Linear(features, DIM), proxies=torch.randn(5, DIM)),
    )
    return folder


def agrees(report: ExportReport, folder: Path, images: list[bytes]) -> None:
    """The ONNX file, run from scratch with the preprocessing of onnx.json, gives what the checkpoint gives."""
    bundle = read_onnx_bundle(report.onnx_json.parent)
    session = onnxruntime.InferenceSession(report.onnx_json.with_name("model.onnx"), providers=["CPUExecutionProvider"])
    model = load_model(folder)
    for count in (1, 2, 5, 17):
        batch = np.stack([bundle.preprocessing.apply(decode_image(images[i % len(images)])) for i in range(count)])
        embedding, features = session.run(["embedding", "features"], {"images": batch})
        with torch.inference_mode():
            expected = model.backbone(torch.from_numpy(batch))
            np.testing.assert_allclose(features, expected.numpy(), rtol=1e-3, atol=1e-4)
            normalised = F.normalize(model.head.embed(expected), dim=1).numpy()
        np.testing.assert_allclose(embedding, normalised, rtol=0, atol=1e-4)
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)


def test_an_export_is_described_verified_and_complete(tmp_path: Path) -> None:
    folder, out = small_bundle(tmp_path / "m"), tmp_path / "out"
    report = export_onnx(folder, out, pictures())
    bundle = read_onnx_bundle(out)
    assert bundle == report.bundle
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", "onnx.json"]
    assert bundle.onnx.sha256 == file_sha256(out / "model.onnx")
    assert (bundle.embedding_dim, bundle.feature_dim, bundle.input.shape) == (DIM, 8, (1, 16, 16))
    assert bundle.classes == CLASSES
    assert bundle.weights_sha256 == load_model(folder).weights_sha256
    assert bundle.external_data == ()
    assert report.verification.images == 5
    assert report.verification.max_abs_difference <= 1e-5
    model = onnx.load(out / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import if entry.domain == ""] == [("", bundle.opset)]
    assert [value.name for value in model.graph.output] == ["embedding", "features"]
    agrees(report, folder, pictures())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_torchvision_networks_export_with_a_batch_of_any_size(tmp_path: Path, name: str) -> None:
    folder = torchvision_bundle(tmp_path / "m", name)
    agrees(export_onnx(folder, tmp_path / "out", pictures(2, 80)), folder, pictures(2, 80))


def test_pretrained_weights_export_on_real_drawings(tmp_path: Path, shared_dir: Path) -> None:
    with ZipFile(shared_dir / "data" / "omniglot_background_small1.zip") as archive:
        drawings = [archive.read(name) for name in archive.namelist() if name.endswith(".png")][::700]
    report = export_onnx(small_bundle(tmp_path / "m"), tmp_path / "out", drawings)
    assert report.verification.images == len(drawings)
    assert report.verification.max_abs_difference <= 1e-5


def test_equal_models_export_to_equal_files_that_name_no_folder(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "m")
    first = export_onnx(folder, tmp_path / "a", pictures())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "onnx.json").write_text("of an earlier export")
    second = export_onnx(folder, tmp_path / "b", pictures()[:2])
    assert first.bundle.onnx == second.bundle.onnx
    assert read_onnx_bundle(tmp_path / "b") == second.bundle
    data = (tmp_path / "a" / "model.onnx").read_bytes()
    assert b"site-packages" not in data
    assert b"eif_engine" not in data


def test_another_opset_is_stated(tmp_path: Path) -> None:
    report = export_onnx(small_bundle(tmp_path / "m"), tmp_path / "out", pictures(), opset=20)
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == report.bundle.opset == 20


def test_large_weights_go_to_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_INLINE_BYTES", 1000)
    folder = small_bundle(tmp_path / "m")
    report = export_onnx(folder, tmp_path / "out", pictures())
    (data,) = report.bundle.external_data
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(["model.onnx", "onnx.json", data.file])
    assert data.sha256 == file_sha256(tmp_path / "out" / data.file)
    agrees(report, folder, pictures())


@contextmanager
def sabotage(monkeypatch: pytest.MonkeyPatch, error: float) -> Iterator[None]:
    """An exporter that gets the head wrong."""
    real = torch.onnx.export

    def wrong(graph: export.EmbeddingGraph, *args: object, **options: object) -> object:
        head = graph.weight.clone()
        graph.weight += error
        try:
            return real(graph, *args, **options)  # type: ignore[arg-type]  # passed through
        finally:
            graph.weight.copy_(head)

    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", wrong)
        yield


def test_an_export_that_differs_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = small_bundle(tmp_path / "m"), tmp_path / "out"
    with sabotage(monkeypatch, 0.5), pytest.raises(OnnxInvalid) as caught:
        export_onnx(folder, out, pictures())
    assert "over the limit of 0.001: nothing was written" in caught.value.message
    assert float(caught.value.metadata["max_abs_difference"]) > 1e-3
    assert list(out.iterdir()) == []


def test_an_earlier_export_survives_one_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = small_bundle(tmp_path / "m"), tmp_path / "out"
    earlier = export_onnx(folder, out, pictures()).bundle
    with sabotage(monkeypatch, 0.5), pytest.raises(OnnxInvalid):
        export_onnx(folder, out, pictures())
    assert read_onnx_bundle(out) == earlier
    assert file_sha256(out / "model.onnx") == earlier.onnx.sha256


def test_a_difference_under_the_limit_is_accepted_and_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sabotage(monkeypatch, 0.01):
        report = export_onnx(small_bundle(tmp_path / "m"), tmp_path / "out", pictures(), max_difference=1.0)
    assert 1e-4 < report.verification.max_abs_difference < 1.0
    assert report.verification.limit == 1.0


class Branches(nn.Module):
    """Python that looks at values: nothing an exporter can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :8] if float(x.sum()) > 0 else x.flatten(1)[:, 8:16]


def test_a_network_that_cannot_be_exported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    model = replace(load_model(small_bundle(tmp_path / "m")), backbone=Branches())
    monkeypatch.setattr(export, "load_model", lambda _folder: model)
    with pytest.raises(OnnxInvalid, match="cannot be exported to ONNX"):
        export_onnx(tmp_path / "m", tmp_path / "out", pictures())
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_asked_for_must_make_sense(tmp_path: Path) -> None:
    folder = small_bundle(tmp_path / "m")
    with pytest.raises(InvalidInput, match="give at least one"):
        export_onnx(folder, tmp_path / "out", [])
    with pytest.raises(InvalidInput, match="opset must be 18 to 23, not 9"):
        export_onnx(folder, tmp_path / "out", pictures(), opset=9)
    with pytest.raises(ImageInvalid, match="image 2: not an image"):
        export_onnx(folder, tmp_path / "out", [pictures()[0], b"junk"])
    with pytest.raises(ImageInvalid, match=r"missing.png: cannot be read: No such file"):
        export_onnx(folder, tmp_path / "out", [tmp_path / "missing.png"])
    with pytest.raises(CheckpointIncompatible):
        export_onnx(edit(folder, embedding_dim=9), tmp_path / "out", pictures())
    assert not (tmp_path / "out").exists()


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["export-onnx", *arguments])
    code: int = args.run(args)
    return code


def test_the_command_prints_the_difference_and_warns_of_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out, images = small_bundle(tmp_path / "m"), tmp_path / "out", tmp_path / "images"
    (images / "deeper").mkdir(parents=True)
    for number, data in enumerate(pictures()):
        (images / ("deeper" if number % 2 else ".") / f"{number}.png").write_bytes(data)
    (images / "notes.txt").write_text("not an image")
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        code = run(str(folder), "--out", str(out), "--images", str(images), str(images / "0.png"))
    assert heard == []
    printed = capsys.readouterr()
    assert code == 0
    assert printed.err == ""
    assert f"written: {out / 'onnx.json'}" in printed.out
    assert "opset 18, input images (any, 1, 16, 16), embedding 8, features 8" in printed.out
    assert "max abs difference in normalised embeddings: " in printed.out
    assert "(limit 0.001), on 6 image(s) in batches of 1, 3, 8" in printed.out


def test_the_command_refuses_above_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(pictures(1)[0])
    with sabotage(monkeypatch, 0.5), pytest.raises(EifError, match=r"over the limit of 0\.01"):
        run(
            str(small_bundle(tmp_path / "m")),
            "--out",
            str(tmp_path / "o"),
            "--images",
            str(image),
            "--max-difference",
            "0.01",
        )

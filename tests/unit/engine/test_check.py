from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from eif_engine.cli import check as command
from eif_engine.errors import EifError
from eif_engine.losses.settings import ProxyNcaSettings
from eif_engine.models.architectures import build_backbone
from eif_engine.models.bundle import Architecture
from eif_engine.models.check import check_bundle
from eif_engine.models.checkpoint import load_model
from eif_engine.models.findings import Finding, Level, is_usable
from eif_engine.models.save import save_bundle
from tests.bundles import CLASSES, DIM, changed, edit, put_bytes, put_weights, small_bundle, small_state


def codes(findings: list[Finding], level: Level) -> list[str]:
    return [finding.code for finding in findings if finding.level is level]


def message(findings: list[Finding], code: str) -> str:
    return next(finding.message for finding in findings if finding.code == code)


def with_state(folder: Path, **changes: Tensor | None) -> Path:
    return put_weights(small_bundle(folder), changed(small_state(), **changes))


def test_a_good_bundle_is_ok_throughout(tmp_path: Path) -> None:
    findings = check_bundle(small_bundle(tmp_path))
    assert {finding.level for finding in findings} == {Level.OK}
    assert codes(findings, Level.OK) == ["SCHEMA", "WEIGHTS", "PROXIES", "ARCHITECTURE", "STATE_DICT", "PROXY_NORMS"]
    assert message(findings, "SCHEMA") == "model.json: conv4, proxy_nca, 5 classes, embedding of 8"
    assert message(findings, "ARCHITECTURE") == "conv4 takes (1, 16, 16) and gives 8 features"


def test_every_fault_of_the_schema_is_a_line(tmp_path: Path) -> None:
    findings = check_bundle(edit(small_bundle(tmp_path), embedding_dim=0, clases=[], loss=...))
    assert codes(findings, Level.ERROR) == ["MODEL_BUNDLE_INVALID"] * 3
    lines = {finding.message for finding in findings}
    assert "model.json: clases: unknown field; check its spelling" in lines
    assert "model.json: loss: is missing" in lines


def test_it_goes_on_after_a_fault(tmp_path: Path) -> None:
    """Wrong digest of the weights, unknown architecture, and proxies for other classes: three findings at once."""
    put_weights(small_bundle(tmp_path), {"proxies": torch.zeros(3, DIM)}, name="proxy.pth", field="proxies")
    edit(tmp_path, architecture={"name": "resnet5"}, weights={"file": "weights.safetensors", "sha256": "0" * 64})
    findings = check_bundle(tmp_path)
    errors = [finding.message for finding in findings if finding.level is Level.ERROR]
    assert len(errors) == 3
    assert "weights.safetensors has sha256" in errors[0]
    assert "proxies has shape (3, 8)" in errors[1]
    assert "did you mean resnet50" in errors[2] or "did you mean" in errors[2]


def test_each_kind_of_mismatch_is_a_line(tmp_path: Path) -> None:
    state = changed(small_state(), head__bias=None, head__weight=torch.zeros(9, 8), stray=torch.zeros(1))
    state["backbone.0.1.bias"][0] = float("nan")
    findings = check_bundle(put_weights(small_bundle(tmp_path), state))
    assert codes(findings, Level.ERROR) == ["KEYS_MISSING", "KEYS_UNEXPECTED", "SHAPES", "NOT_FINITE"]
    assert not is_usable(findings)


@pytest.mark.parametrize("data", [b"", b"junk", b"\x80\x02cos\nsystem\nX\x01\x00\x00\x00a\x85R."])
def test_unsafe_files_are_a_finding_and_are_not_run(tmp_path: Path, data: bytes) -> None:
    findings = check_bundle(put_bytes(small_bundle(tmp_path), data))
    assert codes(findings, Level.ERROR) == ["CHECKPOINT_UNSAFE"]
    assert "ARCHITECTURE" in codes(findings, Level.OK)


def test_a_folder_without_model_json_is_one_finding(tmp_path: Path) -> None:
    (finding,) = check_bundle(tmp_path)
    assert finding.level is Level.ERROR
    assert "model.json cannot be read" in finding.message


ODD: dict[str, tuple[dict[str, Tensor], Level]] = {
    "PROXIES_DEAD": ({"loss__proxies": torch.cat([torch.zeros(1, DIM), torch.eye(4, DIM)])}, Level.WARNING),
    "PROXIES_EQUAL": ({"loss__proxies": torch.eye(5, DIM)[[0, 1, 2, 3, 1]] * 3}, Level.WARNING),
    "HEAD_DEAD": ({"head__weight": torch.cat([torch.zeros(1, 8), torch.eye(7, 8)])}, Level.WARNING),
    "BATCH_NORM": ({"backbone__1__1__running_var": -torch.ones(4)}, Level.ERROR),
    "OUTPUT_COLLAPSED": ({"head__weight": torch.eye(DIM, 8) * 1e-4, "head__bias": torch.ones(DIM)}, Level.WARNING),
    "FEATURES_DEAD": ({"backbone__3__1__bias": torch.full((8,), -1e6)}, Level.WARNING),
}


@pytest.mark.parametrize("code", ODD)
def test_what_is_odd_is_found(tmp_path: Path, code: str) -> None:
    changes, level = ODD[code]
    findings = check_bundle(with_state(tmp_path, **changes))
    assert code in codes(findings, level)
    assert is_usable(findings) == (level is Level.WARNING)


def test_classes_with_odd_proxies_are_named(tmp_path: Path) -> None:
    assert "'a'" in message(check_bundle(with_state(tmp_path, **ODD["PROXIES_DEAD"][0])), "PROXIES_DEAD")
    equal = message(check_bundle(with_state(tmp_path, **ODD["PROXIES_EQUAL"][0])), "PROXIES_EQUAL")
    assert "'b' and 'e'" in equal


def test_equal_proxies_are_found_among_thousands(tmp_path: Path) -> None:
    proxies = torch.randn(1500, DIM, generator=torch.Generator().manual_seed(0))
    proxies[1400] = proxies[3] * 2
    folder = edit(with_state(tmp_path, loss__proxies=proxies), classes=list(range(1500)))
    assert "'3' and '1400'" in message(check_bundle(folder), "PROXIES_EQUAL")


def imagenet_bundle(folder: Path, **preprocessing: Any) -> Path:
    state = {f"backbone.{k}": v for k, v in build_backbone(Architecture(name="resnet18")).module.state_dict().items()}
    save_bundle(
        folder,
        architecture=Architecture(name="resnet18"),
        loss=ProxyNcaSettings(),
        classes=CLASSES,
        preprocessing=load_model(small_bundle(folder)).preprocessing.model_validate(
            {"resize": [64, 64], **preprocessing}
        ),
        state_dict={**state, "head.weight": torch.randn(DIM, 512), "loss.proxies": torch.randn(5, DIM)},
    )
    return folder


def test_preprocessing_that_imagenet_networks_do_not_use_is_a_warning(tmp_path: Path) -> None:
    findings = check_bundle(imagenet_bundle(tmp_path))
    assert "mean 0 and std 1, but resnet18 is mostly trained with mean [0.485" in message(findings, "PREPROCESSING")
    assert is_usable(findings)
    good = imagenet_bundle(tmp_path, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert codes(check_bundle(good), Level.WARNING) == []


def test_pixels_left_at_255_are_a_warning(tmp_path: Path) -> None:
    folder = edit(small_bundle(tmp_path), preprocessing={"mode": "L", "resize": [16, 16], "divisor": 1})
    assert "pixels at 0..255" in message(check_bundle(folder), "PREPROCESSING")


def test_a_softmax_scale_given_as_scale_is_a_warning(tmp_path: Path) -> None:
    folder = edit(small_bundle(tmp_path), loss={"name": "proxy_nca", "scale": 64})
    assert "give its square root" in message(check_bundle(folder), "LOSS_SCALE")


def test_one_class_is_a_warning(tmp_path: Path) -> None:
    folder = edit(with_state(tmp_path, loss__proxies=torch.ones(1, DIM)), classes=["only"])
    assert "no sample can be confused" in message(check_bundle(folder), "ONE_CLASS")


@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_loading(tmp_path: Path, seed: int) -> None:
    """What the linter calls usable loads, and what it does not call usable does not."""
    folder = small_bundle(tmp_path, seed=seed)
    changes: list[dict[str, Any]] = [
        {},
        {"classes": list(CLASSES[:4])},
        {"embedding_dim": 9},
        {"architecture": {"name": "conv4", "options": {"image_size": 16, "width": 5}}},
        {"head_bias": False},
        {"pooling": "max"},
        {"loss": {"name": "soft_triple"}},
        {"loss": {"name": "soft_triple", "centers_per_class": 2}},
    ]
    original = (folder / "model.json").read_text()
    for change in changes:
        (folder / "model.json").write_text(original)
        edit(folder, **change)
        try:
            load_model(folder)
            loads = True
        except EifError:
            loads = False
        assert is_usable(check_bundle(folder)) == loads, change


def run(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["check", str(folder), *options])
    code: int = args.run(args)
    return code, capsys.readouterr().out


def test_the_command_prints_a_table_and_exits_0_or_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(small_bundle(tmp_path), capsys)
    assert code == 0
    assert "STATE_DICT" in out
    assert "usable: 0 error(s), 0 warning(s)" in out
    code, out = run(edit(tmp_path, classes=["[bold]x"]), capsys)
    assert code == 1
    assert "CHECKPOINT_INCOMPATIBLE" in out
    assert "not usable: 1 error(s)" in out


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(edit(small_bundle(tmp_path), embedding_dim=9), capsys, "--json")
    answer = json.loads(out)
    assert code == 1
    assert answer["usable"] is False
    assert {"ERROR", "OK"} <= {finding["level"] for finding in answer["findings"]}

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eif_engine.__main__ import main
from eif_engine.config import InfluenceConfig, PublishedSteps, UnitStep
from eif_engine.jobs.rank import rank
from eif_engine.losses.arcface import ArcFace
from eif_engine.losses.base import ProxyLoss
from eif_engine.losses.cosface import CosFace
from eif_engine.losses.normalized_softmax import NormalizedSoftmax
from eif_engine.losses.pml import PmlLoss
from eif_engine.losses.pml_bank import PmlBankLoss, with_bank
from eif_engine.losses.pml_classes import BANK_CLASSES, PROXY_CLASSES
from eif_engine.losses.proxy_anchor import ProxyAnchor
from eif_engine.losses.settings import BankSettings, PmlSettings
from tests.toy import Toy, toy
from tests.unit.engine.test_influence import query_of


def arrays_of(data: Toy, **changes: Any) -> dict[str, NDArray[Any]]:
    arrays = {
        "train_features": data.train_NF.numpy(),
        "test_features": data.test_MF.numpy(),
        "head_weight": data.head.weight_DF.numpy(),
        "head_bias": data.head.bias_D.numpy(),
        "proxies": data.proxy_nca.proxies_CD.numpy(),
        "train_labels": data.train_labels_N.numpy(),
        "test_labels": np.array([int(label[1:]) for label in data.test_labels]),
    }
    return {name: np.asarray(array) for name, array in {**arrays, **changes}.items() if array is not None}


def run(tmp_path: Path, arrays: dict[str, NDArray[Any]], *options: str) -> dict[str, NDArray[Any]]:
    np.savez(tmp_path / "case.npz", **arrays)  # type: ignore[arg-type]  # numpy's own overload takes arrays by name
    assert main(["score", str(tmp_path / "case.npz"), "--out", str(tmp_path / "out.npz"), *options]) == 0
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def expected(data: Toy, rows: list[tuple[int, int]], config: InfluenceConfig, loss: str = "proxy_nca") -> NDArray[Any]:
    ranked = rank(
        head=data.head,
        loss=getattr(data, loss),
        train_features_NF=data.train_NF,
        train_labels_N=data.train_labels_N,
        test_features_MF=data.test_MF,
        queries=[query_of(data, rows)],
        config=config,
    )
    return next(ranked)[1]


def test_pairs_by_row(tmp_path: Path) -> None:
    out = run(tmp_path, arrays_of(toy()), "--pairs", "0,5;3,1")
    assert out["pairs"].tolist() == [[0, 5], [3, 1]]
    np.testing.assert_allclose(out["scores"][1], expected(toy(), [(3, 1)], InfluenceConfig()))


def test_all_and_the_closest(tmp_path: Path) -> None:
    everything = run(tmp_path, arrays_of(toy()))
    closest = run(tmp_path, arrays_of(toy()), "--pairs", "2")
    assert len(everything["pairs"]) > 2
    assert everything["scores"].shape == (len(everything["pairs"]), 24)
    assert closest["pairs"].tolist() == everything["pairs"][:2].tolist()


def test_options_reach_the_maths(tmp_path: Path) -> None:
    options = ["--steps", "7", "--lr", "0.05", "--thetas", "1", "--no-normalize"]
    config = InfluenceConfig(step=PublishedSteps(steps=7, learning_rate=0.05), num_thetas=1, normalize=False)
    out = run(tmp_path, arrays_of(toy()), "--pairs", "0,5", *options)
    np.testing.assert_allclose(out["scores"][0], expected(toy(), [(0, 5)], config))
    out = run(tmp_path, arrays_of(toy()), "--pairs", "0,5", "--radius", "0.2", "--thetas", "4", "--seed", "9")
    config = InfluenceConfig(step=UnitStep(radius=0.2), num_thetas=4, seed=9)
    np.testing.assert_allclose(out["scores"][0], expected(toy(), [(0, 5)], config))


def test_a_group_is_one_row_with_all_its_pairs(tmp_path: Path) -> None:
    out = run(tmp_path, arrays_of(toy()), "--group", "1")
    assert out["scores"].shape == (1, 24)
    rows = [(int(first), int(second)) for first, second in out["pairs"]]
    np.testing.assert_allclose(out["scores"][0], expected(toy(), rows, InfluenceConfig()))
    narrow = arrays_of(toy(), group_class=1, group_confused_classes=np.array([2]))
    assert all(toy().test_labels[second] == "c2" for _, second in run(tmp_path, narrow, "--group", "1")["pairs"])


@pytest.mark.parametrize("flat", [True, False])
def test_soft_triple_from_meta(tmp_path: Path, flat: bool) -> None:
    data = toy()
    centers = data.soft_triple.centers_CKD.numpy()
    meta = json.dumps({"loss": "soft_triple", "K": 3})
    out = run(
        tmp_path, arrays_of(data, proxies=centers.reshape(-1, 5) if flat else centers, meta=meta), "--pairs", "0,5"
    )
    np.testing.assert_allclose(out["scores"][0], expected(data, [(0, 5)], InfluenceConfig(), "soft_triple"))


ONE_A_CLASS: dict[str, tuple[dict[str, Any], ProxyLoss]] = {
    "proxy_anchor": ({"margin": 0.2, "alpha": 16}, ProxyAnchor(toy().proxy_nca.proxies_CD, 0.2, 16)),
    "normalized_softmax": ({"temperature": 0.1}, NormalizedSoftmax(toy().proxy_nca.proxies_CD, 0.1)),
    "cosface": ({"scale": 20, "margin": 0.1}, CosFace(toy().proxy_nca.proxies_CD, 20, 0.1)),
    "arcface": ({"scale": 20, "margin": 10}, ArcFace(toy().proxy_nca.proxies_CD, 20, 10)),
}


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("name", ONE_A_CLASS)
def test_losses_of_cosines_from_meta(tmp_path: Path, name: str, flat: bool) -> None:
    given, loss = ONE_A_CLASS[name]
    meta = {"loss": name, **given, "noise": 0.1} if flat else {"loss": {"name": name, **given}, "margin": 0.9}
    out = run(tmp_path, arrays_of(toy(), meta=json.dumps(meta)), "--pairs", "0,5")
    np.testing.assert_allclose(out["scores"][0], scores_by(loss), rtol=1e-9)


def scores_by(loss: ProxyLoss) -> NDArray[Any]:
    data = toy()
    ranked = rank(
        head=data.head,
        loss=loss,
        train_features_NF=data.train_NF,
        train_labels_N=data.train_labels_N,
        test_features_MF=data.test_MF,
        queries=[query_of(data, [(0, 5)])],
        config=InfluenceConfig(),
    )
    return next(ranked)[1]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("class_", PROXY_CLASSES)
def test_losses_of_the_library_from_meta(tmp_path: Path, class_: str) -> None:
    K = PROXY_CLASSES[class_].centers
    vectors_CKD = torch.randn(4, K, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    meta = {"loss": {"name": "pytorch_metric_learning", "class": class_}}
    arrays = arrays_of(toy(), meta=json.dumps(meta), proxies=vectors_CKD.numpy())
    out = run(tmp_path, arrays, "--pairs", "0,5")
    np.testing.assert_allclose(out["scores"][0], scores_by(PmlLoss.of(PmlSettings(class_=class_), vectors_CKD)))
    assert np.abs(out["scores"]).max() > 1e-4


@pytest.mark.parametrize("class_", BANK_CLASSES)
def test_losses_of_pairs_from_meta_need_no_proxies(tmp_path: Path, class_: str) -> None:
    settings = PmlSettings(class_=class_, bank=BankSettings(per_class=2, seed=3))
    meta = {"loss": settings.model_dump()}
    out = run(tmp_path, arrays_of(toy(), meta=json.dumps(meta), proxies=None), "--pairs", "0,5")
    data, loss = toy(), PmlBankLoss.of(settings, num_classes=4, embedding_dim=5)
    ready = with_bank(loss, data.head, data.train_NF, data.train_labels_N)
    np.testing.assert_allclose(out["scores"][0], scores_by(ready))
    assert np.abs(out["scores"]).max() > 1e-4


def test_no_confusions_is_an_empty_answer(tmp_path: Path) -> None:
    out = run(tmp_path, arrays_of(toy(), test_labels=np.zeros(16, dtype=np.int64)))
    assert (out["pairs"].shape, out["scores"].shape) == ((0, 2), (0, 24))


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ({"proxies": None}, [], "`proxies` is missing"),
        ({"train_features": np.ones((24, 3))}, [], "`train_features` has 3 columns"),
        ({"train_features": np.full((24, 7), np.nan)}, [], "`train_features` has NaN"),
        ({"train_labels": np.full(24, 9)}, [], "outside [0, 4)"),
        ({"train_labels": np.zeros(3, dtype=int)}, [], "`train_labels`"),
        ({"meta": "{"}, [], "`meta` is not JSON"),
        ({"meta": '{"loss": "triplet"}'}, [], "'triplet'; known are proxy_nca, soft_triple, proxy_anchor"),
        (
            {"meta": '{"loss": "arcface", "margin": 200}'},
            [],
            "`meta` names a loss that cannot be: loss: arcface.margin",
        ),
        ({"meta": '{"loss": {"name": "arcface", "noise": 1}}'}, [], "arcface.noise: unknown field"),
        ({"meta": '{"loss": "soft_triple", "K": 0}'}, [], "centers_per_class"),
        (
            {"meta": '{"loss": "soft_triple", "K": 3}'},
            [],
            "of shape (4, 5) does not fit loss soft_triple with 3 vector(s)",
        ),
        ({"meta": '{"loss": {"name": "pytorch_metric_learning", "class": "FooLoss"}}'}, [], "'FooLoss' is none that"),
        (
            {"meta": '{"loss": {"name": "pytorch_metric_learning", "class": "CosFaceLoss", "arguments": {"x": 1}}}'},
            [],
            "arguments.x: cannot be set; CosFaceLoss takes",
        ),
        ({"proxies": np.ones((4, 3))}, [], "`proxies` has last dimension 3, but embeddings have size 5"),
        ({}, ["--pairs", "0;1"], "--pairs '0;1'"),
        ({}, ["--pairs", "0,16"], "row 16"),
        ({}, ["--pairs", "0"], "--pairs '0'"),
        ({}, ["--group", "8"], "--group '8'"),
        ({}, ["--radius", "-1"], "radius"),
        ({}, ["--radius", "1", "--steps", "2"], "excludes"),
        ({}, ["--steps", "2", "--thetas", "3"], "2 thetas"),
    ],
)
def test_faults_are_one_line_that_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], options: list[str], says: str
) -> None:
    np.savez(tmp_path / "case.npz", **arrays_of(toy(), **changes))  # type: ignore[arg-type]  # as above
    assert main(["score", str(tmp_path / "case.npz"), "--out", str(tmp_path / "out.npz"), *options]) == 1
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


def test_a_pickle_is_never_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (Path.touch, (tmp_path / "touched",))  # type: ignore[return-value]  # what an attacker would write

    hostile = np.empty(1, dtype=object)
    hostile[0] = Evil()
    np.savez(tmp_path / "case.npz", **arrays_of(toy(), train_features=hostile))  # type: ignore[arg-type]  # as above
    assert main(["score", str(tmp_path / "case.npz"), "--out", str(tmp_path / "out.npz")]) == 1
    assert "train_features" in capsys.readouterr().err
    assert not (tmp_path / "touched").exists()


def test_it_is_a_program(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "eif_engine"]
    shown = subprocess.run([*program, "score", "--help"], capture_output=True, text=True, check=True).stdout
    assert "--no-normalize" in shown
    missing = subprocess.run(
        [*program, "score", str(tmp_path / "none.npz"), "--out", "x"], capture_output=True, text=True, check=False
    )
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "none.npz" in missing.stderr
    assert "Traceback" not in missing.stderr

"""`score` with methods and scopes: options reach the maths, and contradictions are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from eif_engine.__main__ import main
from eif_engine.config import FirstOrder, InfluenceConfig, Metric, QueryKind, UnitStep
from eif_engine.jobs.methods import rank_by
from eif_engine.jobs.queries import pair_query, row_pairs
from eif_engine.jobs.scope import rank_scope
from eif_engine.method_config import Method, MethodConfig
from eif_engine.models.network import Network
from eif_engine.types import Query
from tests.toy import Toy, toy
from tests.unit.engine.test_score_cli import arrays_of, run


def queries_of(data: Toy) -> list[Query]:
    pairs = row_pairs([(0, 5), (3, 1)], data.head.embed(data.test_MF))
    return [pair_query(pair, data.test_ids, QueryKind.CONFUSION_PAIRS) for pair in pairs]


def expected(
    method: Method, config: InfluenceConfig | None = None, settings: MethodConfig | None = None
) -> NDArray[Any]:
    data = toy()
    ranked = rank_by(
        method,
        head=data.head,
        loss=data.proxy_nca,
        train_features_NF=data.train_NF,
        train_labels_N=data.train_labels_N,
        test_features_MF=data.test_MF,
        queries=queries_of(data),
        config=config or InfluenceConfig(),
        method_config=settings,
    )
    return np.array([scores for _, scores in ranked])


def scored(tmp_path: Path, *options: str) -> NDArray[Any]:
    return run(tmp_path, arrays_of(toy()), "--pairs", "0,5;3,1", *options)["scores"]


@pytest.mark.parametrize("method", list(Method))
def test_every_method_has_a_name(tmp_path: Path, method: Method) -> None:
    np.testing.assert_allclose(scored(tmp_path, "--method", method.value), expected(method))


def test_settings_reach_the_baselines(tmp_path: Path) -> None:
    found = scored(tmp_path, "--method", "if_ekfac", "--damping", "0.7", "--seed", "3")
    np.testing.assert_allclose(found, expected(Method.IF_EKFAC, settings=MethodConfig(damping=0.7, seed=3)))


@pytest.mark.parametrize(
    ("options", "config"),
    [
        (["--first-order", "--radius", "0.3"], InfluenceConfig(step=FirstOrder(radius=0.3))),
        (["--radius", "0.3", "--unit-steps", "4"], InfluenceConfig(step=UnitStep(radius=0.3, steps=4))),
        (["--metric", "kfac", "--damping", "0.2"], InfluenceConfig(metric=Metric.KFAC, damping=0.2)),
    ],
    ids=["first-order", "unit-steps", "metric"],
)
def test_options_reach_eif(tmp_path: Path, options: list[str], config: InfluenceConfig) -> None:
    np.testing.assert_allclose(scored(tmp_path, *options), expected(Method.EIF, config))


@pytest.mark.parametrize(("scope", "pattern"), [("all", "*"), ("head.*", "*"), ("head.bias", "head.bias")])
def test_scopes(tmp_path: Path, scope: str, pattern: str) -> None:
    data = toy()
    ranked = rank_scope(
        network=Network(nn.Identity(), data.head),
        pattern=pattern,
        loss=data.proxy_nca,
        train_batches=[data.train_NF],
        train_labels_N=data.train_labels_N,
        test_images=lambda rows: data.test_MF[list(rows)],
        queries=queries_of(data),
        config=InfluenceConfig(),
    )
    found = scored(tmp_path, "--scope", scope)
    np.testing.assert_allclose(found, np.array([scores for _, scores in ranked]))
    assert not np.allclose(found, expected(Method.EIF))


def test_the_weight_of_the_head_by_name_is_scope_head(tmp_path: Path) -> None:
    np.testing.assert_allclose(scored(tmp_path, "--scope", "head.weight"), scored(tmp_path), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--scope", "trunk.*"],
            "scope 'trunk.*' matches no parameter of the network; there are head.weight, head.bias",
        ),
        (["--scope", "all", "--metric", "kfac"], "metric kfac is that of the head weight alone"),
        (["--method", "loss", "--steps", "3", "--thetas", "1"], "--method loss excludes --steps, --thetas"),
        (["--method", "if_cg", "--first-order", "--scope", "all"], "excludes --first-order, --scope"),
        (["--method", "if_cg", "--no-normalize"], "excludes --normalize"),
        (["--method", "published_if", "--damping", "1"], "--method published_if has no --damping"),
        (["--damping", "1"], "--damping is for methods if_cg and if_ekfac"),
        (["--method", "if_cg", "--damping", "0"], "damping must be above 0"),
        (["--radius", "1", "--lr", "2"], "excludes --steps and --lr"),
        (["--unit-steps", "2", "--steps", "2"], "excludes --steps and --lr"),
        (["--first-order", "--steps", "2"], "--first-order takes no steps"),
        (["--unit-steps", "0"], "steps must be at least 1"),
        (["--steps", "2", "--metric", "kfac"], "published steps are plain gradient steps"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    np.savez(tmp_path / "case.npz", **arrays_of(toy()))  # type: ignore[arg-type]  # numpy's own overload takes arrays
    assert main(["score", str(tmp_path / "case.npz"), "--out", str(tmp_path / "out.npz"), *options]) == 1
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out.npz").exists()


def test_a_loss_that_curvature_does_not_know_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = arrays_of(toy(), meta='{"loss": "proxy_anchor"}')
    np.savez(tmp_path / "case.npz", **arrays)  # type: ignore[arg-type]  # as above
    options = ["--method", "if_ekfac", "--out", str(tmp_path / "out.npz")]
    assert main(["score", str(tmp_path / "case.npz"), *options]) == 1
    assert "ProxyAnchor is no cross-entropy over classes" in capsys.readouterr().err


def test_wrong_options_are_said_before_the_file_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(tmp_path / "none.npz"), "--out", "x", "--method", "if_cg", "--damping", "-1"]) == 1
    assert "damping must be above 0" in capsys.readouterr().err

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from eif_engine.__main__ import main
from eif_engine.cases import load_case
from eif_engine.config import InfluenceConfig, QueryKind, UnitStep
from eif_engine.counterfactual_config import Action, ProofConfig, RetrainConfig, RetrainOptimizer, Reweighting
from eif_engine.errors import InvalidInput
from eif_engine.jobs.counterfactual import counterfactual
from eif_engine.jobs.counterfactual_report import CounterfactualReport
from eif_engine.jobs.intervention import reweight
from eif_engine.jobs.methods import rank_by
from eif_engine.jobs.prove import prove
from eif_engine.jobs.queries import confusions, pair_query
from eif_engine.jobs.rank import rank
from eif_engine.method_config import Method
from eif_engine.types import Pair, Query
from tests.toy import Toy, toy


def query(row: int, neighbor: int) -> Query:
    return Query(
        query_id=f"{row}-{neighbor}",
        kind=QueryKind.CONFUSION_PAIRS,
        pairs=(Pair(row=row, neighbor=neighbor, distance=0.0),),
    )


QUERIES = [query(0, 5), query(3, 1)]


def scores(seed: int) -> list[NDArray[np.float64]]:
    return list(np.random.default_rng(seed).normal(size=(2, 24)))


def proven(data: Toy, config: ProofConfig, **changes: Any) -> list[CounterfactualReport]:
    arguments: dict[str, Any] = {
        "head": data.head,
        "loss": data.proxy_nca,
        "train_features_NF": data.train_NF,
        "train_labels_N": data.train_labels_N,
        "test_features_MF": data.test_MF,
        "test_labels": data.test_labels,
        "queries": QUERIES,
        "rankings": {"one": scores(1), "two": scores(2)},
        "config": config,
        "dtype": torch.float64,
    }
    return list(prove(**arguments | changes))


def test_each_query_is_checked_with_its_own_row_of_each_ranking() -> None:
    data, config = toy(), ProofConfig(reweighting=Reweighting(top_k=4), random_draws=3)
    found = proven(data, config)
    assert [report.query_id for report in found] == ["0-5", "3-1"]
    for place, report in enumerate(found):
        assert list(report.arms) == ["none", "one", "two", "random"]
        for name, seed in (("one", 1), ("two", 2)):
            direct = counterfactual(
                head=data.head,
                loss=data.proxy_nca,
                train_features_NF=data.train_NF,
                train_labels_N=data.train_labels_N,
                test_features_MF=data.test_MF,
                test_labels=data.test_labels,
                query=QUERIES[place],
                arms={name: reweight(scores(seed)[place], data.train_labels_N, Reweighting(top_k=4))},
                config=config.retrain,
                dtype=torch.float64,
            )
            assert report.arms[name] == direct.arms[name]


def test_random_changes_as_many_samples_as_the_first_ranking() -> None:
    for report in proven(toy(), ProofConfig(reweighting=Reweighting(top_k=4), random_draws=3)):
        assert report.arms["random"].draws == 3
        assert report.arms["random"].reweighted == report.arms["one"].reweighted == 8
        assert report.arms["random"].distance.standard_error
    assert "random" not in proven(toy(), ProofConfig(random_draws=0))[0].arms


def test_random_draws_follow_the_seed_and_differ_between_queries() -> None:
    same = [QUERIES[0], QUERIES[0]]
    rankings = {"one": [scores(1)[0]] * 2}
    config = ProofConfig(reweighting=Reweighting(top_k=4), random_draws=1)
    first, second = proven(toy(), config, queries=same, rankings=rankings)
    assert first.arms["one"] == second.arms["one"]
    assert first.arms["random"] != second.arms["random"]
    assert proven(toy(), config, queries=same, rankings=rankings) == [first, second]


def test_relabelling_gives_harmful_samples_the_labels_of_their_neighbours() -> None:
    """Clusters of one class each, with one label wrong: it is the only one to change, where it ranks as harmful."""
    data = toy()
    centers_CF = 10 * torch.eye(4, 7, dtype=torch.float64)
    x_NF = centers_CF[data.train_labels_N] + 0.1 * data.train_NF
    given_N = data.train_labels_N.clone()
    given_N[6] = 0
    rows = [np.full(24, -1.0), np.full(24, -1.0)]
    rows[0][6] = rows[0][7] = 1.0
    config = ProofConfig(action=Action.RELABEL, random_draws=2)
    found = proven(data, config, train_features_NF=x_NF, train_labels_N=given_N, rankings={"one": rows})
    assert found[0].arms["one"].relabelled == found[0].arms["random"].relabelled == 1
    assert found[0].arms["one"].reweighted == 0
    assert found[1].arms["one"].relabelled == 0
    right = proven(data, config, train_features_NF=x_NF, rankings={"one": rows})
    assert found[0].arms["one"].distance == right[0].arms["none"].distance


def test_rankings_need_a_row_a_query() -> None:
    with pytest.raises(InvalidInput, match="'one' has 1 rows for 2 queries"):
        proven(toy(), ProofConfig(), rankings={"one": scores(1)[:1]})


def case_file(tmp_path: Path) -> Path:
    data, path = toy(), tmp_path / "case.npz"
    np.savez(
        path,
        train_features=data.train_NF.numpy(),
        test_features=data.test_MF.numpy(),
        head_weight=data.head.weight_DF.numpy(),
        head_bias=data.head.bias_D.numpy(),
        proxies=data.proxy_nca.proxies_CD.numpy(),
        train_labels=data.train_labels_N.numpy(),
        test_labels=np.array(data.test_labels),
    )
    return path


def test_the_command_writes_what_the_job_gives_and_prints_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, data = case_file(tmp_path), toy()
    options = ["--pairs", "0,5;3,1", "--top-k", "4", "--optimizer", "sgd", "--lr", "0.05", "--epochs", "2"]
    options += ["--batch-size", "5", "--seed", "3", "--random", "2", "--radius", "0.2", "--harmful-weight", "0.5"]
    options += ["--compare", "if_ekfac", "loss", "--steps", "1"]
    assert main(["prove", str(path), "--out", str(tmp_path / "out.json"), *options]) == 0
    written = json.loads((tmp_path / "out.json").read_text())
    arrays: dict[str, Any] = {
        "head": data.head,
        "loss": data.proxy_nca,
        "train_features_NF": data.train_NF,
        "train_labels_N": data.train_labels_N,
        "test_features_MF": data.test_MF,
    }
    ranked = rank(**arrays, queries=QUERIES, config=InfluenceConfig(step=UnitStep(radius=0.2)))
    expected = proven(
        data,
        ProofConfig(
            reweighting=Reweighting(top_k=4, harmful=0.5),
            retrain=RetrainConfig(optimizer=RetrainOptimizer.SGD, learning_rate=0.05, epochs=2, batch_size=5, seed=3),
            random_draws=2,
        ),
        rankings={
            "EIF": [row for _, row in ranked],
            **{
                method.value: [row for _, row in rank_by(method, **arrays, queries=QUERIES, config=InfluenceConfig())]
                for method in (Method.IF_EKFAC, Method.LOSS)
            },
        },
    )
    for found, report in zip(written["queries"], expected, strict=True):
        assert list(found["arms"]) == ["none", "EIF", "if_ekfac", "loss", "random"]
        for name, arm in report.arms.items():
            assert found["arms"][name]["distance"]["mean"] == pytest.approx(arm.distance.mean, rel=1e-3)
            assert found["arms"][name]["reweighted"] == arm.reweighted
    assert written["proof"]["retrain"]["optimizer"] == "sgd"
    shown = capsys.readouterr().out
    assert "apart" in shown
    assert "if_ekfac" in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--epochs", "0"], "epochs"),
        (["--lr", "-1"], "learning_rate"),
        (["--top-k", "0"], "top_k"),
        (["--random", "-1"], "random_draws"),
        (["--radius", "0"], "radius"),
        (["--helpful-weight", "-2"], "helpful"),
        (["--pairs", "0,99"], "row 99"),
        (["--lr", "1e30"], "learning_rate"),
        (["--optimizer", "sgd", "--lr", "9e29"], "diverged"),
    ],
)
def test_faults_are_one_line_that_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    path = case_file(tmp_path)
    assert main(["prove", str(path), "--out", str(tmp_path / "out.json"), *options]) == 1
    message = capsys.readouterr().err
    assert says in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


@pytest.mark.slow
def test_on_a_real_model_confusions_come_apart_further_than_at_random(shared_dir: Path) -> None:
    """The published budget and weights; the published stepping, and small steps of the head's own optimiser."""
    case = load_case(shared_dir / "cases" / "omniglot_proxy_nca.npz")
    arrays: dict[str, Any] = {
        "head": case.head,
        "loss": case.loss,
        "train_features_NF": case.train_features_NF,
        "train_labels_N": case.train_labels_N,
        "test_features_MF": case.test_features_MF,
    }
    pairs = confusions(case.head.embed(case.test_features_MF), case.test_labels)[:8]
    queries = [pair_query(pair, case.test_ids, QueryKind.CONFUSION_PAIRS) for pair in pairs]
    ranked = rank(**arrays, queries=queries, config=InfluenceConfig(step=UnitStep(radius=0.2)))
    config = ProofConfig(
        reweighting=Reweighting(top_k=None),
        retrain=RetrainConfig(optimizer=RetrainOptimizer.SGD, learning_rate=1e-2),
        random_draws=3,
    )
    reports = list(
        prove(
            **arrays,
            test_labels=case.test_labels,
            queries=queries,
            rankings={"EIF": [row for _, row in ranked]},
            config=config,
        )
    )
    gains = [(report.arms["EIF"].distance_gain.mean, report.arms["random"].distance_gain.mean) for report in reports]
    assert all(gain > 0 for gain, _ in gains)
    assert np.mean([gain for gain, _ in gains]) > 5 * abs(np.mean([random for _, random in gains]))

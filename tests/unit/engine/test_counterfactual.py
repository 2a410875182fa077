from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from eif_engine.config import InfluenceConfig, QueryKind, UnitStep
from eif_engine.counterfactual_config import RetrainConfig, RetrainOptimizer, Reweighting
from eif_engine.errors import InvalidInput
from eif_engine.functional.recall import recall_at_1
from eif_engine.functional.retrain import epoch_rows, retrain_head
from eif_engine.jobs.counterfactual import counterfactual
from eif_engine.jobs.counterfactual_report import CounterfactualReport, Measure
from eif_engine.jobs.intervention import Intervention, relabel, reweight, shuffled, unchanged
from eif_engine.jobs.rank import rank
from eif_engine.losses.base import ProxyLoss
from eif_engine.types import Pair, Query
from tests import oracles
from tests.toy import Toy, toy

SGD = RetrainConfig(optimizer=RetrainOptimizer.SGD, learning_rate=0.05, batch_size=5, epochs=2, seed=3)
ADAM = RetrainConfig(learning_rate=0.01, batch_size=5, epochs=2, seed=3)


def pair(row: int = 0, neighbor: int = 5) -> Query:
    return Query(
        query_id="q",
        kind=QueryKind.CONFUSION_PAIRS,
        pairs=(Pair(row=row, neighbor=neighbor, distance=0.0),),
    )


def check(data: Toy, loss: ProxyLoss, arms: Any, config: RetrainConfig = ADAM, **changes: Any) -> CounterfactualReport:
    arguments: dict[str, Any] = {
        "head": data.head,
        "loss": loss,
        "train_features_NF": data.train_NF,
        "train_labels_N": data.train_labels_N,
        "test_features_MF": data.test_MF,
        "test_labels": data.test_labels,
        "query": pair(),
        "arms": arms,
        "config": config,
        "dtype": torch.float64,
    }
    return counterfactual(**arguments | changes)


def weights(seed: int = 0, count: int = 24) -> Tensor:
    return torch.randint(0, 3, (count,), generator=torch.Generator().manual_seed(seed)).double()


def numeric_gradient(value: Any, at: Tensor, width: float = 1e-6) -> Tensor:
    """Central differences, entry by entry."""
    found = torch.zeros_like(at)
    for index in np.ndindex(*at.shape):
        ends = []
        for sign in (1, -1):
            moved = at.clone()
            moved[index] += sign * width
            ends.append(value(moved))
        found[index] = (ends[0] - ends[1]) / (2 * width)
    return found


def slow_sgd(data: Toy, weights_N: Tensor, labels_N: Tensor, config: RetrainConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Plain gradient descent on loops over samples, gradients by differences: head weight, bias and proxies."""
    state = [data.head.weight_DF.clone(), data.head.bias_D.clone(), data.proxy_nca.proxies_CD.clone()]
    for epoch in range(config.epochs):
        for rows in epoch_rows(len(labels_N), config, epoch=epoch):

            def objective(parts: list[Tensor], rows: Tensor = rows) -> float:
                weight_DF, bias_D, proxies_CD = parts
                terms = [
                    float(weights_N[row])
                    * oracles.proxy_nca(
                        oracles.embed(weight_DF, bias_D, data.train_NF[row]), int(labels_N[row]), proxies_CD, 3.0
                    )
                    for row in rows.tolist()
                ]
                return math.fsum(terms) / len(rows)

            slopes = [
                numeric_gradient(
                    lambda at, place=place, state=state: objective([*state[:place], at, *state[place + 1 :]]), part
                )
                for place, part in enumerate(state)
            ]
            moving = state if config.train_proxies else state[:2]
            state = [
                part - config.learning_rate * slope if place < len(moving) else part
                for place, (part, slope) in enumerate(zip(state, slopes, strict=True))
            ]
    return state[0], state[1], state[2]


@pytest.mark.parametrize("train_proxies", [True, False])
def test_retraining_is_gradient_descent_on_the_weighted_loss(train_proxies: bool) -> None:
    data = toy(train=11, features=3, dim=3, classes=3)
    config = replace(SGD, train_proxies=train_proxies)
    weights_N, labels_N = weights(count=11), data.train_labels_N.flip(0)
    head, loss = retrain_head(
        data.head, data.proxy_nca, x_NF=data.train_NF, labels_N=labels_N, weights_N=weights_N, config=config
    )
    weight_DF, bias_D, proxies_CD = slow_sgd(data, weights_N, labels_N, config)
    torch.testing.assert_close(head.weight_DF, weight_DF, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(head.bias_D, bias_D, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(vars(loss)["proxies_CD"], proxies_CD, rtol=1e-6, atol=1e-7)
    assert torch.equal(vars(loss)["proxies_CD"], data.proxy_nca.proxies_CD) is not train_proxies


def test_adam_is_the_textbook_rule() -> None:
    data = toy()
    config = replace(ADAM, epochs=1, batch_size=24, train_proxies=False)
    head, _ = retrain_head(
        data.head,
        data.proxy_nca,
        x_NF=data.train_NF,
        labels_N=data.train_labels_N,
        weights_N=torch.ones(24, dtype=torch.float64),
        config=config,
    )
    bias_D = data.head.bias_D.clone().requires_grad_()
    z_ND = data.train_NF @ data.head.weight_DF.T + bias_D
    (slope_D,) = torch.autograd.grad(data.proxy_nca.per_sample(z_ND, data.train_labels_N).mean(), bias_D)
    # At the first step both moments are unbiased to the gradient itself.
    expected = data.head.bias_D - 0.01 * slope_D / (slope_D.abs() + 1e-8)
    torch.testing.assert_close(head.bias_D, expected)


@pytest.mark.parametrize("name", ["proxy_nca", "soft_triple"])
def test_a_weight_of_nothing_is_a_sample_that_is_not_there(name: str) -> None:
    data = toy()
    loss = getattr(data, name)
    config = replace(SGD, batch_size=24, epochs=1)
    weights_N = torch.ones(24, dtype=torch.float64)
    weights_N[[3, 7]] = 0
    weights_N[4] = 2
    kept = [row for row in range(24) if row not in {3, 7}] + [4]
    head, _ = retrain_head(
        data.head, loss, x_NF=data.train_NF, labels_N=data.train_labels_N, weights_N=weights_N, config=config
    )
    without, _ = retrain_head(
        data.head,
        loss,
        x_NF=data.train_NF[kept],
        labels_N=data.train_labels_N[kept],
        weights_N=torch.ones(23, dtype=torch.float64),
        config=replace(config, learning_rate=config.learning_rate * 23 / 24),
    )
    torch.testing.assert_close(head.weight_DF, without.weight_DF)


@pytest.mark.parametrize("config", [SGD, ADAM], ids=["sgd", "adam"])
@pytest.mark.parametrize("name", ["proxy_nca", "soft_triple"])
def test_the_report_is_what_retraining_by_hand_gives(name: str, config: RetrainConfig) -> None:
    data = toy()
    loss: ProxyLoss = getattr(data, name)
    arm = Intervention(weights_N=weights(), labels_N=data.train_labels_N)
    report = check(data, loss, {"arm": arm}, config)
    codes_M = torch.tensor([int(label[1:]) for label in data.test_labels])

    def by_hand(weights_N: Tensor) -> tuple[float, float]:
        head, _ = retrain_head(
            data.head, loss, x_NF=data.train_NF, labels_N=data.train_labels_N, weights_N=weights_N, config=config
        )
        z_MD = head.embed(data.test_MF)
        nearest = [oracles.nearest_rows(z_MD, row, 1)[0][1] for row in range(16)]
        hits = [codes_M[row] == codes_M[other] for row, other in enumerate(nearest)]
        return float(oracles.distance(z_MD[0], z_MD[5], "squared_euclidean")), sum(map(float, hits)) / 16

    none, changed = by_hand(torch.ones(24, dtype=torch.float64)), by_hand(arm.weights_N)
    found = report.arms["arm"]
    assert list(report.arms) == ["none", "arm"]
    assert found.distance.mean == pytest.approx(changed[0], rel=1e-9)
    assert found.distance_gain.mean == pytest.approx(changed[0] - none[0], rel=1e-9)
    assert found.distance_gain.mean != 0
    assert (found.recall_at_1.mean, found.recall_gain.mean) == pytest.approx((changed[1], changed[1] - none[1]))
    assert report.arms["none"].distance.mean == pytest.approx(none[0], rel=1e-9)
    start = data.head.embed(data.test_MF)
    assert report.distance == pytest.approx(float(oracles.distance(start[0], start[5], "squared_euclidean")))


def test_the_same_seed_gives_the_same_report_and_threads_do_not_matter() -> None:
    data = toy()
    arms = {"arm": Intervention(weights_N=weights(), labels_N=data.train_labels_N)}
    first = check(data, data.soft_triple, arms)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert asdict(check(data, data.soft_triple, arms)) == asdict(first)
    finally:
        torch.set_num_threads(threads)
    other = check(data, data.soft_triple, arms, replace(ADAM, seed=4))
    assert other.arms["none"].distance != first.arms["none"].distance


def test_arms_see_the_same_batches_and_do_not_see_each_other() -> None:
    data = toy()
    same, arm = unchanged(data.train_labels_N), Intervention(weights_N=weights(), labels_N=data.train_labels_N)
    report = check(data, data.proxy_nca, {"arm": arm, "same": same, "again": arm})
    assert report.arms["same"].distance_gain.mean == 0
    assert report.arms["same"].recall_gain.mean == 0
    assert report.arms["again"].distance == report.arms["arm"].distance


def test_the_model_given_is_left_alone() -> None:
    data, untouched = toy(), toy()
    check(data, data.proxy_nca, {"arm": Intervention(weights_N=weights(), labels_N=data.train_labels_N)})
    assert torch.equal(data.head.weight_DF, untouched.head.weight_DF)
    assert torch.equal(data.proxy_nca.proxies_CD, untouched.proxy_nca.proxies_CD)
    assert not data.head.weight_DF.requires_grad


def test_several_draws_are_a_mean_with_its_standard_error() -> None:
    data = toy()
    draws = [Intervention(weights_N=weights(seed), labels_N=data.train_labels_N) for seed in range(4)]
    singly = [check(data, data.proxy_nca, {"arm": draw}).arms["arm"].distance_gain.mean for draw in draws]
    found = check(data, data.proxy_nca, {"arm": draws}).arms["arm"]
    assert found.draws == 4
    assert found.distance_gain.mean == pytest.approx(np.mean(singly))
    assert found.distance_gain.standard_error == pytest.approx(np.std(singly, ddof=1) / 2)
    assert Measure.of([1.5]) == Measure(mean=1.5, standard_error=None)


@pytest.mark.parametrize("name", ["proxy_nca", "soft_triple"])
def test_a_pair_comes_apart_without_what_is_harmful_and_with_more_of_what_is_helpful(name: str) -> None:
    """The sign of influence, held against retraining: harmful is what keeps a pair together."""
    data = toy()
    loss: ProxyLoss = getattr(data, name)
    ranked = rank(
        head=data.head,
        loss=loss,
        train_features_NF=data.train_NF,
        train_labels_N=data.train_labels_N,
        test_features_MF=data.test_MF,
        queries=[pair()],
        config=InfluenceConfig(step=UnitStep(radius=1e-3)),
    )
    scores_N = next(iter(ranked))[1]
    arms = {
        f"{harmful:g}, {helpful:g}, {sign:+d}": reweight(
            sign * scores_N, data.train_labels_N, Reweighting(top_k=5, harmful=harmful, helpful=helpful)
        )
        for harmful, helpful in ((0.0, 1.0), (1.0, 2.0), (0.0, 2.0))
        for sign in (1, -1)
    }
    config = RetrainConfig(optimizer=RetrainOptimizer.SGD, learning_rate=1e-3, batch_size=24, train_proxies=False)
    gains = {name: arm.distance_gain.mean for name, arm in check(data, loss, arms, config).arms.items()}
    assert all(gain > 0 for name, gain in gains.items() if name.endswith("+1"))
    assert all(gain < 0 for name, gain in gains.items() if name.endswith("-1"))
    assert gains["0, 2, +1"] > max(gains["0, 1, +1"], gains["1, 2, +1"])


def test_reweighting_takes_each_end_for_its_own_sign() -> None:
    labels_N = torch.zeros(6, dtype=torch.int64)
    scores_N = np.array([0.5, -1.0, 2.0, 0.0, 0.5, -3.0])

    def found(**options: Any) -> list[float]:
        values: list[float] = reweight(scores_N, labels_N, Reweighting(**options)).weights_N.tolist()
        return values

    assert found(top_k=1) == [1, 1, 0, 1, 1, 2]
    assert found(top_k=2) == [0, 2, 0, 1, 1, 2]
    assert found(top_k=5) == found(top_k=None) == [0, 2, 0, 1, 0, 2]
    assert found(top_k=1, harmful=0.25, helpful=3) == [1, 1, 0.25, 1, 1, 3]


def test_relabelling_reaches_the_training() -> None:
    data = toy()
    arm = relabel({3: 0, 8: 1}, data.train_labels_N, num_classes=4)
    assert arm.relabelled(data.train_labels_N) == 2
    direct = data.train_labels_N.clone()
    direct[3], direct[8] = 0, 1
    report = check(data, data.proxy_nca, {"arm": arm})
    expected = check(data, data.proxy_nca, {}, train_labels_N=direct)
    assert report.arms["arm"].distance == expected.arms["none"].distance
    assert report.arms["arm"].distance_gain.mean != 0


def test_shuffling_keeps_the_numbers_and_nothing_else() -> None:
    labels_N = torch.arange(200) % 4
    weights_N = torch.ones(200, dtype=torch.float64)
    weights_N[:20], weights_N[20:50] = 0, 2
    changed_N = labels_N.clone()
    changed_N[100:130] = (changed_N[100:130] + 1) % 4
    given = Intervention(weights_N=weights_N, labels_N=changed_N)
    drawn = shuffled(given, labels_N, num_classes=4, seed=1)
    assert torch.equal(drawn.weights_N.sort().values, weights_N.sort().values)
    assert not torch.equal(drawn.weights_N, weights_N)
    assert drawn.relabelled(labels_N) == given.relabelled(labels_N) == 30
    moved = drawn.labels_N != labels_N
    assert not torch.equal(moved, changed_N != labels_N)
    assert len(set(((drawn.labels_N - labels_N) % 4)[moved].tolist())) == 3
    assert torch.equal(shuffled(given, labels_N, num_classes=4, seed=1).weights_N, drawn.weights_N)
    assert not torch.equal(shuffled(given, labels_N, num_classes=4, seed=2).weights_N, drawn.weights_N)


def test_batches_are_a_shuffle_by_seed_and_epoch() -> None:
    first = torch.cat(list(epoch_rows(23, SGD, epoch=0)))
    assert sorted(first.tolist()) == list(range(23))
    assert torch.equal(first, torch.cat(list(epoch_rows(23, SGD, epoch=0))))
    assert not torch.equal(first, torch.cat(list(epoch_rows(23, SGD, epoch=1))))
    assert not torch.equal(first, torch.cat(list(epoch_rows(23, replace(SGD, seed=4), epoch=0))))
    assert [len(rows) for rows in epoch_rows(23, SGD, epoch=0)] == [5, 5, 5, 5, 3]


def test_recall_counts_nearest_others() -> None:
    z_MD = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0], [-1.0, 0.0]])
    assert recall_at_1(z_MD, torch.tensor([0, 0, 1, 2, 2])) == pytest.approx(2 / 5)
    assert recall_at_1(z_MD[:1], torch.tensor([0])) == 0


ONES = torch.ones(24, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ({"none": [unchanged(torch.zeros(24, dtype=torch.int64))]}, "'none'"),
        ({"a": []}, "'a' has no draw"),
        ({"a": Intervention(weights_N=ONES[:3], labels_N=ONES.long())}, "3 weights"),
        ({"a": Intervention(weights_N=-ONES, labels_N=ONES.long())}, "below 0"),
        ({"a": Intervention(weights_N=ONES * math.nan, labels_N=ONES.long())}, "below 0 or not finite"),
        ({"a": Intervention(weights_N=ONES, labels_N=4 * ONES.long())}, "outside of the 4 classes"),
    ],
    ids=["reserved", "empty", "short", "negative", "nan", "label"],
)
def test_arms_that_do_not_fit_are_refused(arms: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check(toy(), toy().proxy_nca, arms)


def test_divergence_is_said_and_not_reported_as_a_number() -> None:
    with pytest.raises(InvalidInput, match=r"diverged in arm 'none'.*learning_rate"):
        check(toy(), toy().proxy_nca, {}, replace(SGD, learning_rate=9e29), dtype=torch.float32)


def test_a_loss_without_proxies_of_its_own_must_keep_them_frozen() -> None:
    class Fixed:
        num_classes, embedding_dim = 4, 5

        def per_sample(self, z_ND: Tensor, _labels_N: Tensor) -> Tensor:
            return z_ND.square().sum(dim=1)

        def to(self, **_: Any) -> Fixed:
            return self

    data = toy()
    with pytest.raises(InvalidInput, match="train_proxies"):
        check(data, Fixed(), {})
    assert check(data, Fixed(), {}, replace(ADAM, train_proxies=False)).arms["none"].distance.mean > 0


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (RetrainConfig, {"epochs": 0}, "epochs"),
        (RetrainConfig, {"batch_size": 0}, "batch_size"),
        (RetrainConfig, {"learning_rate": 0.0}, "learning_rate"),
        (RetrainConfig, {"learning_rate": 1e30}, "learning_rate"),
        (RetrainConfig, {"learning_rate": math.nan}, "learning_rate"),
        (Reweighting, {"top_k": 0}, "top_k"),
        (Reweighting, {"harmful": -1.0}, "harmful"),
        (Reweighting, {"helpful": math.nan}, "helpful"),
    ],
)
def test_settings_are_checked_where_they_are_made(kind: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind(**options)


@pytest.mark.parametrize("scores", [np.zeros(5), np.full(24, math.nan), np.zeros((24, 1))], ids=["short", "nan", "2d"])
def test_rankings_that_do_not_fit_are_refused(scores: Any) -> None:
    with pytest.raises(InvalidInput, match="24 finite scores"):
        reweight(scores, toy().train_labels_N, Reweighting())


@pytest.mark.parametrize("new_labels", [{24: 0}, {-1: 0}, {0: 4}, {0: -1}])
def test_labels_out_of_range_are_refused(new_labels: dict[int, int]) -> None:
    with pytest.raises(InvalidInput, match="cannot get label"):
        relabel(new_labels, toy().train_labels_N, num_classes=4)

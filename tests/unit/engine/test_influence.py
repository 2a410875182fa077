from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.config import Distance, InfluenceConfig, PublishedSteps, QueryKind, UnitStep
from eif_engine.functional.theta import random_basis, thetas
from eif_engine.jobs.queries import row_pairs
from eif_engine.jobs.rank import order, rank
from eif_engine.jobs.score import pair_rows
from eif_engine.types import Query
from tests import oracles
from tests.toy import Toy, toy

PAIRS = {"pair": [(0, 5)], "group": [(0, 5), (1, 7), (3, 4)]}


def query_of(data: Toy, rows: list[tuple[int, int]]) -> Query:
    pairs = row_pairs(rows, data.head.embed(data.test_MF))
    return Query(query_id="q", kind=QueryKind.CONFUSION_GROUPS, pairs=tuple(pairs))


def dense_thetas(data: Toy, rows: list[tuple[int, int]], config: InfluenceConfig) -> list[Tensor]:
    """Whole head weights, moved as the paper says, by dense gradients."""
    w, b = data.head.weight_DF, data.head.bias_D
    pairs = [(data.test_MF[i], data.test_MF[j]) for i, j in rows]
    moved = []
    for sign in (1.0, -1.0)[: config.num_thetas]:
        if isinstance(config.step, UnitStep):
            g = oracles.gradient(w, b, pairs, config.distance)
            moved.append(w + sign * config.step.radius * g / g.norm())
            continue
        assert isinstance(config.step, PublishedSteps)
        theta, start = w.clone(), oracles.query_distance(w, b, pairs, config.distance)
        for _ in range(config.step.steps):
            theta = theta + sign * config.step.learning_rate * oracles.gradient(theta, b, pairs, config.distance)
            if abs(oracles.query_distance(theta, b, pairs, config.distance) - start) >= 1:
                break
        moved.append(theta)
    return moved


def loss_loop(data: Toy, name: str) -> Callable[[Tensor, int], float]:
    if name == "proxy_nca":
        return lambda z, label: oracles.proxy_nca(z, int(label), data.proxy_nca.proxies_CD, 3.0)
    centers = data.soft_triple.centers_CKD
    return lambda z, label: oracles.soft_triple(z, int(label), centers, lambda_=20.0, gamma=0.1, margin=0.01)


def scores_of(
    data: Toy, queries: list[Query], config: InfluenceConfig, loss: str = "proxy_nca", *, memory_bytes: int = 1 << 30
) -> NDArray[np.float64]:
    ranked = rank(
        head=data.head,
        loss=getattr(data, loss),
        train_features_NF=data.train_NF,
        train_labels_N=data.train_labels_N,
        test_features_MF=data.test_MF,
        queries=queries,
        config=config,
        memory_bytes=memory_bytes,
    )
    return np.array([scores for _, scores in ranked])


@pytest.mark.parametrize("loss", ["proxy_nca", "soft_triple"])
@pytest.mark.parametrize("distance", list(Distance))
@pytest.mark.parametrize("rows", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize(
    "config",
    [
        {"step": UnitStep(radius=1.0)},
        {"step": UnitStep(radius=0.05), "normalize": False, "num_thetas": 1},
        {"step": PublishedSteps(steps=7, learning_rate=0.05)},
        {"step": PublishedSteps(steps=60, learning_rate=0.5), "normalize": False},
    ],
    ids=["unit", "short-one", "steps", "steps-that-stop"],
)
def test_influence_is_the_paper_s_loop(
    loss: str, distance: Distance, rows: list[tuple[int, int]], config: dict[str, object]
) -> None:
    data = toy()
    settings = InfluenceConfig(distance=distance, **config)  # type: ignore[arg-type]  # a table of keyword arguments
    expected = oracles.influence(
        weight_DF=data.head.weight_DF,
        bias_D=data.head.bias_D,
        moved=dense_thetas(data, rows, settings),
        x_NF=data.train_NF,
        labels=data.train_labels_N.tolist(),
        pairs=[(data.test_MF[i], data.test_MF[j]) for i, j in rows],
        loss=loss_loop(data, loss),
        normalize=settings.normalize,
        kind=distance,
    )
    found = scores_of(data, [query_of(data, rows)], settings, loss)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def random_moves(data: Toy, query: Query, config: InfluenceConfig) -> list[Tensor]:
    """Whole displacements of the head weight."""
    basis_JDF = random_basis(data.head, config)
    found = thetas(data.head, pair_rows(query, data.test_MF)[None], config, basis_JDF=basis_JDF)
    return [found.dense(0, theta, basis_JDF) for theta in range(config.num_thetas)]


def test_random_thetas_are_orthogonal_seeded_and_on_the_sphere() -> None:
    data = toy()
    query = query_of(data, PAIRS["group"])

    def moved(seed: int) -> list[Tensor]:
        return random_moves(data, query, InfluenceConfig(step=UnitStep(radius=0.5), num_thetas=5, seed=seed))

    first, again, other = moved(1), moved(1), moved(2)
    for direction in first:
        assert float(direction.norm()) == pytest.approx(0.5)
    for i, left in enumerate(first):
        for j, right in enumerate(first[:i]):
            if (i, j) != (1, 0):  # theta_min is the opposite of theta_max, not orthogonal to it
                assert float((left * right).sum()) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(first, again)
    assert not torch.equal(first[2], other[2])
    np.testing.assert_allclose(first[1], -first[0])


@pytest.mark.parametrize("loss", ["proxy_nca", "soft_triple"])
@pytest.mark.parametrize("rows", PAIRS.values(), ids=PAIRS)
def test_random_thetas_enter_the_mean_of_eq_6(loss: str, rows: list[tuple[int, int]]) -> None:
    data = toy()
    query = query_of(data, rows)
    config = InfluenceConfig(step=UnitStep(radius=0.5), num_thetas=4, seed=3)
    expected = oracles.influence(
        weight_DF=data.head.weight_DF,
        bias_D=data.head.bias_D,
        moved=[data.head.weight_DF + move_DF for move_DF in random_moves(data, query, config)],
        x_NF=data.train_NF,
        labels=data.train_labels_N.tolist(),
        pairs=[(data.test_MF[i], data.test_MF[j]) for i, j in rows],
        loss=loss_loop(data, loss),
        normalize=True,
    )
    np.testing.assert_allclose(scores_of(data, [query], config, loss)[0], expected, rtol=1e-9, atol=1e-12)


def test_a_distance_that_cannot_be_moved_gives_zeros_and_not_nan() -> None:
    data = toy()
    data.test_MF[5] = data.test_MF[0]
    for distance in Distance:
        scores = scores_of(data, [query_of(data, [(0, 5)])], InfluenceConfig(distance=distance))
        assert scores.tolist() == [[0.0] * len(data.train_NF)]


def test_permuted_training_samples_get_the_same_scores() -> None:
    data = toy()
    query = query_of(data, PAIRS["pair"])
    permutation = torch.randperm(len(data.train_NF), generator=torch.Generator().manual_seed(4))
    plain = scores_of(data, [query], InfluenceConfig())[0]
    shuffled = Toy(
        **{
            **vars(data),
            "train_NF": data.train_NF[permutation],
            "train_labels_N": data.train_labels_N[permutation],
        }
    )
    np.testing.assert_allclose(scores_of(shuffled, [query], InfluenceConfig())[0], plain[permutation], rtol=1e-12)


def test_nothing_is_mutated() -> None:
    data = toy()
    before = [tensor.clone() for tensor in (data.head.weight_DF, data.head.bias_D, data.train_NF, data.test_MF)]
    scores_of(data, [query_of(data, PAIRS["group"])], InfluenceConfig(step=UnitStep(), num_thetas=3))
    after = [data.head.weight_DF, data.head.bias_D, data.train_NF, data.test_MF]
    assert all(torch.equal(left, right) for left, right in zip(before, after, strict=True))


def test_harmful_is_positive() -> None:
    """A sample of one class that pulls the confused pair together is harmful, and one that holds it apart is helpful.

    Two features, identity head, pair on either side of the diagonal: a training sample between them whose proxy lies
    beyond the other one wants the pair closer.
    """
    data = toy(features=2, dim=2, classes=2, train=2, test=2)
    head = type(data.head)(torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    test_MF = torch.tensor([[1.0, 0.2], [0.2, 1.0]], dtype=torch.float64)
    proxies_CD = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    train_NF = torch.tensor([[1.0, 0.2], [1.0, 0.2]], dtype=torch.float64)
    world = Toy(
        head=head,
        proxy_nca=type(data.proxy_nca)(proxies_CD, 3.0),
        soft_triple=data.soft_triple,
        train_NF=train_NF,
        train_labels_N=torch.tensor([0, 1]),
        test_MF=test_MF,
        test_labels=["a", "b"],
    )
    towards, away = scores_of(world, [query_of(world, [(0, 1)])], InfluenceConfig(step=UnitStep(radius=0.1)))[0]
    assert towards > 0 > away


def test_order_is_by_score_as_float32_and_then_by_id() -> None:
    scores = np.array([1.0, 1.0 + 1e-12, 2.0, -1.0, 1.0])
    assert order(scores, ["b", "c", "z", "a", "a"]).tolist() == [2, 4, 0, 1, 3]

"""Matching of parts against loops, linear programming and its own symmetries."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, linprog
from torch import Tensor

from eif_engine.errors import InvalidInput
from eif_engine.functional.matching import additive_contributions, correlation, match, match_masses
from eif_engine.functional.sinkhorn import sinkhorn
from eif_engine.matching_config import MatchingConfig

U, V, D = 6, 4, 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masses(count: int, seed: int) -> Tensor:
    return draw(count, seed=seed).abs() / draw(count, seed=seed).abs().sum()


def images(first: int = U, second: int = V, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Parts of two images that have something in common, and their means."""
    common_D = draw(D, seed=99)
    parts_UD, parts_VD = draw(first, D, seed=seed) + common_D, draw(second, D, seed=seed + 1) + common_D
    return parts_UD, parts_VD, parts_UD.mean(0), parts_VD.mean(0)


def slow_sinkhorn(cost: Tensor, a: Tensor, b: Tensor, temperature: float, iterations: int = 3000) -> list[list[float]]:
    """By the definition: scale rows, then columns, of exp(-cost / temperature)."""
    rows, columns = cost.shape
    kernel = [[math.exp(-float(cost[i, j]) / temperature) for j in range(columns)] for i in range(rows)]
    left, right = [1.0] * rows, [1.0] * columns
    first, second = a.tolist(), b.tolist()
    for _ in range(iterations):
        for i in range(rows):
            left[i] = first[i] / sum(kernel[i][j] * right[j] for j in range(columns))
        for j in range(columns):
            right[j] = second[j] / sum(kernel[i][j] * left[i] for i in range(rows))
    return [[left[i] * kernel[i][j] * right[j] for j in range(columns)] for i in range(rows)]


def least_cost(cost: Tensor, a: Tensor, b: Tensor) -> tuple[float, NDArray[np.float64]]:
    """Optimal transport without entropy, as a linear program."""
    rows, columns = cost.shape
    sums = np.zeros((rows + columns, rows * columns))
    for i, j in product(range(rows), range(columns)):
        sums[i, i * columns + j] = sums[rows + j, i * columns + j] = 1
    found = linprog(cost.numpy().ravel(), A_eq=sums, b_eq=np.concatenate([a.numpy(), b.numpy()]), method="highs")
    assert found.success
    assert found.fun is not None
    assert found.x is not None
    return float(found.fun), found.x.reshape(rows, columns)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
def test_the_flow_is_that_of_the_loops(temperature: float) -> None:
    cost, a, b = draw(U, V).abs(), masses(U, 1), masses(V, 2)
    found = sinkhorn(cost, a, b, temperature=temperature, tolerance=1e-12)
    assert found.converged
    expected = torch.tensor(slow_sinkhorn(cost, a, b, temperature), dtype=torch.float64)
    torch.testing.assert_close(found.flow_UV, expected, rtol=1e-8, atol=1e-12)


def test_marginals_are_kept_to_the_tolerance() -> None:
    cost, a, b = draw(U, V).abs(), masses(U, 1), masses(V, 2)
    found = sinkhorn(cost, a, b, temperature=0.05, tolerance=1e-6)
    assert 1e-12 < found.error <= 1e-6
    assert float((found.flow_UV.sum(1) - a).abs().sum()) == pytest.approx(found.error, abs=1e-12)
    torch.testing.assert_close(found.flow_UV.sum(0), b, rtol=0, atol=1e-14)
    tighter = sinkhorn(cost, a, b, temperature=0.05, tolerance=1e-10)
    assert tighter.iterations > found.iterations


def test_at_a_low_temperature_it_is_optimal_transport() -> None:
    cost, a, b = draw(U, V, seed=8).abs(), masses(U, 1), masses(V, 2)
    optimum, plan = least_cost(cost, a, b)
    found = sinkhorn(cost, a, b, temperature=0.002, tolerance=1e-9, max_iterations=5000)
    assert found.converged
    assert float((found.flow_UV * cost).sum()) == pytest.approx(optimum, abs=1e-6)
    np.testing.assert_allclose(found.flow_UV.numpy(), plan, rtol=0, atol=1e-5)
    hot = sinkhorn(cost, a, b, temperature=1.0)
    assert float((hot.flow_UV * cost).sum()) > optimum + 1e-2


def test_at_a_high_temperature_the_flow_is_the_product_of_the_masses() -> None:
    cost, a, b = draw(U, V).abs(), masses(U, 1), masses(V, 2)
    found = sinkhorn(cost, a, b, temperature=1e4)
    torch.testing.assert_close(found.flow_UV, a[:, None] * b, rtol=1e-3, atol=1e-6)


def test_places_without_mass_take_no_part() -> None:
    cost, a, b = draw(U, V).abs(), masses(U, 1).clone(), masses(V, 2).clone()
    a[2], b[1] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    found = sinkhorn(cost, a, b, temperature=0.05)
    assert found.converged
    assert not found.flow_UV[2].any()
    assert not found.flow_UV[:, 1].any()
    kept = [0, 1, 3, 4, 5]
    alone = sinkhorn(cost[kept][:, [0, 2, 3]], a[kept], b[[0, 2, 3]], temperature=0.05)
    torch.testing.assert_close(found.flow_UV[kept][:, [0, 2, 3]], alone.flow_UV, rtol=0, atol=1e-8)


def test_a_temperature_below_what_exponentials_hold() -> None:
    cost, a, b = 1 + draw(U, V).abs(), masses(U, 1), masses(V, 2)
    found = sinkhorn(cost, a, b, temperature=1e-4, max_iterations=50)
    assert torch.isfinite(found.flow_UV).all()
    assert float(found.flow_UV.sum()) == pytest.approx(1, abs=1e-9)


def test_what_has_not_converged_says_so() -> None:
    found = sinkhorn(draw(U, V).abs(), masses(U, 1), masses(V, 2), temperature=0.01, max_iterations=2)
    assert not found.converged
    assert found.iterations == 2
    assert found.error > 1e-9
    parts_UD, parts_VD, whole_D, other_D = images()
    matching = match(parts_UD, parts_VD, whole_D, other_D, MatchingConfig(max_iterations=1))
    assert not matching.converged
    assert float(matching.flow_UV.sum()) == pytest.approx(1, abs=1e-9)


def test_matching_is_written_from_its_definition() -> None:
    parts_UD, parts_VD, whole_D, other_D = images()
    cost, similarity = torch.zeros(U, V, dtype=torch.float64), torch.zeros(U, V, dtype=torch.float64)
    for u, v in product(range(U), range(V)):
        cosine = parts_UD[u] @ parts_VD[v] / (parts_UD[u].norm() * parts_VD[v].norm())
        similarity[u, v], cost[u, v] = cosine, 1 - cosine
    a = torch.tensor([max(0.0, float(part @ other_D)) for part in parts_UD], dtype=torch.float64)
    b = torch.tensor([max(0.0, float(part @ whole_D)) for part in parts_VD], dtype=torch.float64)
    flow = torch.tensor(slow_sinkhorn(cost, a / a.sum(), b / b.sum(), 0.05), dtype=torch.float64)
    found = match(parts_UD, parts_VD, whole_D, other_D)
    assert found.converged
    torch.testing.assert_close(found.flow_UV, flow, rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(found.contribution_UV, flow * similarity, rtol=1e-6, atol=1e-10)
    assert float(found.matched_similarity) == pytest.approx(float((flow * similarity).sum()), abs=1e-8)


def test_parts_sum_to_the_similarity_and_flow_to_one() -> None:
    found = match(*images())
    assert float(found.flow_UV.sum()) == pytest.approx(1, abs=1e-12)
    assert float(found.contribution_UV.sum()) == pytest.approx(float(found.matched_similarity), abs=1e-12)
    assert found.flow_UV.min() >= 0
    assert -1 <= float(found.matched_similarity) <= 1


def test_turning_the_two_images_round_transposes_the_flow() -> None:
    parts_UD, parts_VD, whole_D, other_D = images()
    one = match(parts_UD, parts_VD, whole_D, other_D)
    two = match(parts_VD, parts_UD, other_D, whole_D)
    torch.testing.assert_close(one.flow_UV, two.flow_UV.T, rtol=0, atol=1e-8)
    assert float(one.matched_similarity) == pytest.approx(float(two.matched_similarity), abs=1e-8)


def test_an_image_matches_itself_part_by_part() -> None:
    parts_UD = draw(U, 40) + 0.5
    whole_D = parts_UD.mean(0)
    found = match(parts_UD, parts_UD, whole_D, whole_D, MatchingConfig(temperature=0.02))
    mass_U = correlation(parts_UD, whole_D)
    torch.testing.assert_close(found.flow_UV, torch.diag(mass_U), rtol=0, atol=1e-3)
    assert float(found.matched_similarity) == pytest.approx(1, abs=1e-3)


def test_moved_parts_move_the_flow_and_nothing_else() -> None:
    parts_UD, parts_VD, whole_D, other_D = images()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    found = match(parts_UD, parts_VD, whole_D, other_D)
    moved = match(parts_UD[order], parts_VD, whole_D, other_D)
    torch.testing.assert_close(moved.flow_UV, found.flow_UV[order], rtol=0, atol=1e-12)
    assert float(moved.matched_similarity) == pytest.approx(float(found.matched_similarity), abs=1e-12)


def test_with_equal_masses_it_is_the_best_assignment() -> None:
    parts_UD, parts_VD, _, _ = images(5, 5, seed=4)
    equal = torch.full((5,), 0.2, dtype=torch.float64)
    config = MatchingConfig(temperature=0.005, max_iterations=2000)
    found = match_masses(parts_UD, parts_VD, equal, equal, config)
    rows, columns = linear_sum_assignment(found.similarity_UV.numpy(), maximize=True)
    assert float(found.matched_similarity) == pytest.approx(float(found.similarity_UV[rows, columns].mean()), abs=1e-4)
    assert found.flow_UV.argmax(1).tolist() == columns.tolist()


def test_a_batch_gives_what_each_pair_gives() -> None:
    pairs = [images(seed=seed) for seed in (0, 10, 20)]
    parts, other_parts, wholes, others = (torch.stack(values) for values in zip(*pairs, strict=True))
    together = match(parts, other_parts, wholes, others)
    assert together.matched_similarity.shape == (3,)
    for number, pair in enumerate(pairs):
        alone = match(*pair)
        torch.testing.assert_close(together.flow_UV[number], alone.flow_UV, rtol=0, atol=1e-8)
        assert float(together.matched_similarity[number]) == pytest.approx(float(alone.matched_similarity), abs=1e-8)


def test_masses_are_equal_where_nothing_agrees() -> None:
    parts_UD = draw(U, D)
    against = -parts_UD.mean(0) * 100
    negative = parts_UD[(parts_UD @ against) < 0]
    assert correlation(negative, against).tolist() == pytest.approx([1 / len(negative)] * len(negative))
    mass_U = correlation(parts_UD, draw(D, seed=3))
    assert float(mass_U.sum()) == pytest.approx(1)
    assert ((mass_U == 0) == (parts_UD @ draw(D, seed=3) <= 0)).all()


def test_contributions_of_parts_that_average_to_embeddings_sum_to_their_cosine() -> None:
    parts_UD, parts_VD, whole_D, other_D = images()
    found = additive_contributions(parts_UD, parts_VD)
    cosine = torch.cosine_similarity(whole_D, other_D, dim=0)
    assert float(found.sum()) == pytest.approx(float(cosine), abs=1e-12)
    for u, v in product(range(U), range(V)):
        expected = parts_UD[u] @ parts_VD[v] / (U * V * whole_D.norm() * other_D.norm())
        assert float(found[u, v]) == pytest.approx(float(expected), abs=1e-14)


def test_the_mass_of_a_part_is_its_share_in_the_models_similarity() -> None:
    parts_UD, parts_VD, _, other_D = images(seed=6)
    parts_UD = parts_UD[(parts_UD @ other_D) > 0]
    shares_U = additive_contributions(parts_UD, parts_VD).sum(1)
    torch.testing.assert_close(correlation(parts_UD, other_D), shares_U / shares_U.sum())


@pytest.mark.parametrize(
    "changes",
    [{"temperature": 0.0}, {"temperature": float("nan")}, {"tolerance": 0.0}, {"max_iterations": 0}],
    ids=["zero", "nan", "tolerance", "iterations"],
)
def test_settings_are_checked(changes: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(changes))):
        MatchingConfig(**changes)  # type: ignore[arg-type]  # wrong on purpose

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eif_engine.jobs.harm import HarmConfig, HarmSum, harm_by_value


def scores(queries: int, samples: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(queries, samples, generator=generator, dtype=torch.float64)


def summed(scores_QN: torch.Tensor, config: HarmConfig, sizes: list[int]) -> HarmSum:
    ids = [f"{row:03d}" for row in range(scores_QN.shape[1])]
    found = HarmSum(ids, config)
    for part in torch.split(scores_QN, sizes):
        found.add(part)
    return found


def test_sums_are_the_sums() -> None:
    scores_QN = scores(9, 20)
    harm = summed(scores_QN, HarmConfig(replicates=0), [9]).harm()
    for row in range(20):
        column = [float(value) for value in scores_QN[:, row]]
        assert harm.signed_N[row] == pytest.approx(sum(column))
        assert harm.absolute_N[row] == pytest.approx(sum(abs(value) for value in column))
        assert harm.positive_N[row] == pytest.approx(sum(value for value in column if value > 0))
    assert harm.order_N.tolist() == sorted(range(20), key=lambda row: -harm.signed_N[row])
    assert [harm.order_N[rank - 1] for rank in harm.rank_N] == list(range(20))
    assert harm.rank_low_N.tolist() == harm.rank_N.tolist() == harm.rank_high_N.tolist()
    assert harm.queries == 9


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_how_queries_are_cut_changes_nothing(cuts: list[int]) -> None:
    scores_QN = scores(sum(cuts), 12)
    whole = summed(scores_QN, HarmConfig(replicates=20), [len(scores_QN)]).harm()
    parts = summed(scores_QN, HarmConfig(replicates=20), cuts).harm()
    for name, value in vars(whole).items():
        assert np.array_equal(value, getattr(parts, name)), name


def test_a_sample_that_always_harms_most_has_a_sure_rank_and_noise_has_not() -> None:
    scores_QN = scores(200, 50)
    scores_QN[:, 7] += 5
    scores_QN[:, 9] -= 5
    harm = summed(scores_QN, HarmConfig(replicates=200), [200]).harm()
    assert (harm.rank_low_N[7], harm.rank_high_N[7]) == (1, 1)
    assert (harm.rank_low_N[9], harm.rank_high_N[9]) == (50, 50)
    others = np.setdiff1d(np.arange(50), [7, 9])
    assert np.median(harm.rank_high_N[others] - harm.rank_low_N[others]) > 10


def test_intervals_cover_the_rank_over_fresh_queries() -> None:
    """Where samples differ, ranks over many queries lie in the interval from a few about as often as said."""
    strength_N = np.linspace(-0.5, 0.5, 30)
    inside = []
    for seed in range(20):
        scores_QN = scores(100, 30, seed) + torch.from_numpy(strength_N)
        harm = summed(scores_QN, HarmConfig(replicates=100, seed=seed), [100]).harm()
        true_rank_N = np.arange(30, 0, -1)
        inside.append((harm.rank_low_N <= true_rank_N) & (true_rank_N <= harm.rank_high_N))
    assert 0.8 < np.mean(inside) <= 1.0


def test_seeds_change_resamples_only() -> None:
    scores_QN = scores(64, 40)
    first = summed(scores_QN, HarmConfig(seed=1), [64]).harm()
    other = summed(scores_QN, HarmConfig(seed=2), [64]).harm()
    assert np.array_equal(first.rank_N, other.rank_N)
    assert not np.array_equal(first.rank_low_N, other.rank_low_N)


def test_harm_by_value_says_where_it_comes_from() -> None:
    scores_QN = torch.tensor([[4.0, -1.0, 0.0, 0.0], [2.0, -1.0, 2.0, 0.0]])
    harm = summed(scores_QN, HarmConfig(replicates=0), [2]).harm()
    bad, good, new = harm_by_value(harm, ["bad", "good", "new", "good"])[0:3]
    assert (bad.value, bad.samples, bad.signed, bad.positive) == ("bad", 1, 6.0, 6.0)
    assert (bad.share, bad.lift) == (0.75, 3.0)
    assert (good.value, good.samples) == ("new", 1)
    assert (new.value, new.samples, new.signed, new.positive, new.share) == ("good", 2, -2.0, 0.0, 0.0)


def test_no_harm_at_all_is_no_division_by_zero() -> None:
    harm = summed(torch.zeros(3, 4), HarmConfig(), [3]).harm()
    assert [one.share for one in harm_by_value(harm, ["a", "a", "b", "b"])] == [0.0, 0.0]


@pytest.mark.parametrize("fields", [{"replicates": -1}, {"level": 0.0}, {"level": 1.0}])
def test_wrong_configurations_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        HarmConfig(**fields)  # type: ignore[arg-type]  # a table of keyword arguments

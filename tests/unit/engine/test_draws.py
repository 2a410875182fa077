"""Draws belong to samples: what else is in the set, and where, does not matter."""

from __future__ import annotations

from statistics import NormalDist

import pytest
import torch

from eif_engine.functional.canaries import draw_ranks
from eif_engine.functional.draws import Draws, keys_of
from eif_engine.functional.probe import folds

IDS = [f"sample-{row:05d}" for row in range(5000)]


def test_a_sample_keeps_its_numbers_wherever_it_stands() -> None:
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0))
    moved = keys_of([IDS[row] for row in order.tolist()])
    draws, shuffled, fewer = Draws(keys_of(IDS), 3), Draws(moved, 3), Draws(keys_of(IDS[:100]), 3)
    for _ in range(3):
        found = draws.uniform()
        assert torch.equal(shuffled.uniform(), found[order])
        assert torch.equal(fewer.uniform(), found[:100])
    rows_B = torch.tensor([7, 4000, 2])
    every, some = Draws(keys_of(IDS), 9), Draws(keys_of(IDS), 9)
    assert torch.equal(every.uniform()[rows_B], some.uniform(rows_B))


def test_occasions_seeds_and_samples_differ() -> None:
    draws, other = Draws(keys_of(IDS), 0), Draws(keys_of(IDS), 1)
    found = torch.stack([draws.uniform(), draws.uniform(), other.uniform()])
    assert len(set(found.flatten().tolist())) == found.numel()
    assert float(torch.corrcoef(found).fill_diagonal_(0).abs().max()) < 0.05


@pytest.mark.parametrize("draws", [Draws(keys_of(IDS), 0), Draws.by_row(5000, 0), Draws.by_row(5000, -1)])
def test_numbers_are_even(draws: Draws) -> None:
    rows_B = torch.arange(5000)
    value_N = draws.uniform()
    assert 0 < float(value_N.min()) < float(value_N.max()) < 1
    even_N = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    assert float((value_N.sort().values - even_N).abs().max()) < 0.03  # Kolmogorov and Smirnov: 0.019 at 5 %
    assert torch.bincount(draws.integers(4, rows_B)).tolist() == pytest.approx([1250] * 4, abs=130)
    normal_N = draws.normal(rows_B).sort().values
    assert float(normal_N.mean()) == pytest.approx(0, abs=0.05)
    assert float(normal_N[4000]) == pytest.approx(NormalDist().inv_cdf(0.8), abs=0.08)


def test_folds_and_canaries_stay_when_a_hundredth_comes() -> None:
    before, after = (Draws(keys_of(ids), 0) for ids in (IDS[:4950], IDS))
    fold_N = [torch.zeros(5000, dtype=torch.int64) for _ in range(2)]
    for found_N, draws in zip(fold_N, (before, after), strict=True):
        parts = folds(draws, 5)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for fold, rows in enumerate(parts):
            found_N[rows] = fold
    assert float((fold_N[0][:4950] == fold_N[1][:4950]).double().mean()) > 0.97
    planted = [set(draws.rows(round(0.05 * count)).tolist()) for draws, count in ((before, 4950), (after, 5000))]
    both = planted[0] & planted[1]
    assert len(both) > 0.97 * len(planted[0])
    kept_B = torch.tensor(sorted(both))
    suspects_S = torch.arange(300) % 40
    ranks = [
        draw_ranks(suspect_S, kept_B, classes=50, draws=draws)
        for suspect_S, draws in ((suspects_S[:297], before), (suspects_S, after))
    ]
    assert float((ranks[0] == ranks[1]).double().mean()) > 0.7
    assert int((ranks[0] - ranks[1]).abs().max()) <= 1

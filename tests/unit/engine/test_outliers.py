from __future__ import annotations

import math

import pytest
import torch

from eif_engine.functional.agreement import neighborhood
from eif_engine.functional.outliers import outlier_scores, typical_distance


def test_the_score_is_the_distance_over_its_median() -> None:
    generator = torch.Generator().manual_seed(0)
    x_NF = torch.randn(41, 4, generator=generator, dtype=torch.float64)
    near = neighborhood(x_NF, torch.arange(41), 3)
    unit = torch.nn.functional.normalize(x_NF, dim=1)
    third = [sorted(math.dist(unit[a].tolist(), unit[b].tolist()) for b in range(41) if b != a)[2] for a in range(41)]
    median = sorted(third)[20]
    assert typical_distance(near.distance_QK) == pytest.approx(median)
    assert outlier_scores(near.distance_QK).tolist() == pytest.approx([far / median for far in third])


def test_what_stands_apart_scores_highest() -> None:
    generator = torch.Generator().manual_seed(1)
    x_NF = torch.randn(50, 6, generator=generator) * 0.1 + torch.tensor([3.0, 0, 0, 0, 0, 0])
    x_NF[17] = torch.tensor([0.0, 0, 0, -3, 0, 0])
    scores_N = outlier_scores(neighborhood(x_NF, torch.arange(50), 5).distance_QK)
    assert int(scores_N.argmax()) == 17
    assert float(scores_N[17]) > 5
    assert float(scores_N.sort().values[-2]) < 3


def test_a_set_of_mostly_equal_samples_has_finite_scores() -> None:
    distance_NK = torch.zeros(10, 2)
    assert outlier_scores(distance_NK).tolist() == [0.0] * 10
    distance_NK[3] = 0.25
    assert outlier_scores(distance_NK).tolist() == [0.0] * 3 + [1.0] + [0.0] * 6
    assert outlier_scores(torch.zeros(2, 0)).tolist() == [0.0, 0.0]

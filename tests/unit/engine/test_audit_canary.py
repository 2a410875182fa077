"""Review curves, and what planted flips say beside the truth."""

from __future__ import annotations

import numpy as np
import pytest

from eif_engine.functional.review_curve import canary_recall, expected_wrong, review_curve


def sigmoid(scores: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return 1 / (1 + np.exp(-scores))


@pytest.mark.parametrize("wrong_share", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("easier", [0.0, 2.0])
def test_precision_is_that_of_the_truth_also_where_flips_are_easier(wrong_share: float, easier: float) -> None:
    generator = np.random.default_rng(0)
    wrong = np.arange(4000) < wrong_share * 4000
    scores = np.where(wrong, generator.normal(3, 2, 4000), generator.normal(-8, 2.5, 4000))
    flips = generator.normal(3 + easier, 2, 800)
    expected = expected_wrong(sigmoid(scores), sigmoid(flips))
    points = review_curve(sigmoid(scores), expected, sigmoid(flips), [0.01, 0.05, 0.1, 0.2])
    order = np.argsort(-scores)
    for point in points:
        assert point.budget == round(point.share * 4000)
        assert point.precision == pytest.approx(wrong[order[: point.budget]].mean(), abs=0.1)


def test_recall_is_the_share_of_flips_above_the_last_reviewed() -> None:
    probability, flips = np.array([0.9, 0.1, 0.8, 0.3]), np.array([0.95, 0.85, 0.5, 0.2])
    points = review_curve(probability, probability, flips, [0.25, 0.5, 1.0])
    assert [(point.budget, point.recall) for point in points] == [(1, 0.25), (2, 0.5), (4, 1.0)]
    assert [point.precision for point in points] == pytest.approx([0.9, 0.85, 0.525])
    assert canary_recall(np.array([]), 0.5) == 0.0
    assert review_curve(np.array([]), np.array([]), flips, [0.1]) == []


def test_what_scores_higher_is_never_less_likely_wrong() -> None:
    generator = np.random.default_rng(1)
    scores = np.concatenate((generator.normal(-5, 1, 500), generator.normal(2, 0.5, 50), [30.0, 32.0]))
    expected = expected_wrong(sigmoid(scores), sigmoid(generator.normal(2, 0.5, 100)))
    assert (np.diff(expected[np.argsort(scores)]) >= 0).all()
    assert expected[-1] > 0.9


def test_scores_without_spread_stay_as_they_are() -> None:
    same = np.full(20, 0.3)
    assert np.array_equal(expected_wrong(same, np.array([0.2, 0.9])), same)
    assert np.array_equal(expected_wrong(same, np.array([])), same)

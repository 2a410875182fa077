from __future__ import annotations

import math

import numpy as np

from services.embedding.vectors import has_direction, normalize


def test_normalizes_in_float64_and_rounds_once() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 33)).astype(np.float32) * 1e-3
    wide = rows.astype(np.float64)
    expected = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    result = normalize(rows)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, expected)


def test_normalizing_twice_changes_no_bit() -> None:
    once = normalize(np.random.default_rng(1).standard_normal((1000, 64)))
    np.testing.assert_array_equal(normalize(once), once)


def test_extreme_lengths_survive() -> None:
    rows = np.array([[3e38, 3e38], [1e-38, 0], [1e-45, 0]], dtype=np.float32)
    np.testing.assert_allclose(normalize(rows), [[math.sqrt(0.5), math.sqrt(0.5)], [1.0, 0.0], [1.0, 0.0]], rtol=1e-7)


def test_rows_without_direction_are_told_and_do_not_disturb_the_others() -> None:
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [-2, 0]], dtype=np.float32)
    assert has_direction(rows).tolist() == [True, False, False, False, True]
    result = normalize(rows)
    assert has_direction(result).tolist() == [True, False, False, False, True]
    np.testing.assert_allclose(result[[0, 4]], [[0.6, 0.8], [-1.0, 0.0]], rtol=1e-7)

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eif_engine.functional.neighbors import blocks, farthest_of_class, nearest, nearest_other
from tests import oracles


def vectors(rows: int, seed: int = 0) -> torch.Tensor:
    found = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found[rows // 2] = found[0]
    found[rows - 1] = found[1]
    return found


@pytest.mark.parametrize("block_bytes", [1, 300, 10**9])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_nearest_is_the_double_loop(count: int, block_bytes: int) -> None:
    v_ND = vectors(23)
    rows_Q = torch.tensor([22, 0, 5, 1, 11])
    seen = []
    for rows_B, neighbor_BK, distance_BK in nearest(v_ND, rows_Q, count, block_bytes=block_bytes):
        for row, neighbors, distances in zip(rows_B.tolist(), neighbor_BK.tolist(), distance_BK.tolist(), strict=True):
            expected = oracles.nearest_rows(v_ND, row, count)
            assert neighbors == [other for _, other in expected]
            assert distances == pytest.approx([value for value, _ in expected], abs=1e-12)
            seen.append(row)
    assert seen == rows_Q.tolist()


@pytest.mark.parametrize("block_bytes", [1, 300, 10**9])
def test_the_lowest_rows_win_however_many_are_equal(block_bytes: int) -> None:
    v_ND = torch.tensor([[1.0, 0.1]] + 40 * [[1.0, 0.0]] + 3 * [[1.0, 0.1]], dtype=torch.float64)
    ((_, neighbor_BK, distance_BK),) = nearest(v_ND, torch.tensor([0]), 6, block_bytes=block_bytes)
    assert neighbor_BK.tolist() == [[41, 42, 43, 1, 2, 3]]
    assert distance_BK[0, :3].tolist() == [0, 0, 0]
    ((_, neighbor_BK, _),) = nearest(v_ND, torch.tensor([20]), 5, block_bytes=block_bytes)
    assert neighbor_BK.tolist() == [[1, 2, 3, 4, 5]]


@pytest.mark.parametrize("block_bytes", [1, 300, 10**9])
def test_nearest_other_is_never_the_row_itself_also_among_duplicates(block_bytes: int) -> None:
    v_ND = torch.ones(5, 3, dtype=torch.float64)
    neighbor_N, distance_N = nearest_other(v_ND, block_bytes=block_bytes)
    assert all(row != neighbor for row, neighbor in enumerate(neighbor_N.tolist()))
    assert distance_N.tolist() == [0.0] * 5


def test_distances_of_a_pair_are_the_same_from_both_ends() -> None:
    v_ND = torch.randn(300, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
    neighbor_N, distance_N = nearest_other(v_ND)
    mutual = [row for row, other in enumerate(neighbor_N.tolist()) if neighbor_N[other] == row]
    assert len(mutual) > 10
    assert all(distance_N[row] == distance_N[neighbor_N[row]] for row in mutual)


@pytest.mark.parametrize("block_bytes", [1, 10**9])
def test_farthest_of_class(block_bytes: int) -> None:
    v_ND, labels_N = vectors(12), torch.tensor([0, 1, 2] * 3 + [0, 1, 7])
    neighbor_N, distance_N = farthest_of_class(v_ND, labels_N, block_bytes=block_bytes)
    for row in range(12):
        same = [
            (value, other) for value, other in oracles.nearest_rows(v_ND, row, 12) if labels_N[other] == labels_N[row]
        ]
        if not same:
            assert neighbor_N[row] == -1
        else:
            assert float(distance_N[row]) == pytest.approx(max(same)[0])


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(0, 500), columns=st.integers(1, 10**6), block_bytes=st.integers(1, 10**7))
def test_blocks_cover_every_row_once_within_the_memory(rows: int, columns: int, block_bytes: int) -> None:
    found = list(blocks(rows, columns, 8, block_bytes))
    assert [row for part in found for row in range(part.start, part.stop)] == list(range(rows))
    assert all(part.stop - part.start == 1 or (part.stop - part.start) * columns * 8 <= block_bytes for part in found)

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.functional.neighbors import nearest
from eif_engine.functional.similarity_bound import LEAST_ROWS, MOST_CANDIDATES, SimilarityBound, slack

ROWS, DIM, COUNT = LEAST_ROWS + 100, 160, 12


def near_few_axes(noise: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Unit vectors of 200 classes in 20 dimensions, with noise in all."""
    generator = torch.Generator().manual_seed(3)
    axes_FL = torch.linalg.qr(torch.randn(DIM, 20, generator=generator, dtype=dtype)).Q
    center_CL = torch.randn(200, 20, generator=generator, dtype=dtype)
    latent_NL = center_CL[torch.randint(0, 200, (ROWS,), generator=generator)]
    latent_NL = latent_NL + 0.5 * torch.randn(ROWS, 20, generator=generator, dtype=dtype)
    return F.normalize(latent_NL @ axes_FL.T + noise * torch.randn(ROWS, DIM, generator=generator, dtype=dtype), dim=1)


def first_coordinates(vn_NF: Tensor, count: int) -> SimilarityBound:
    """A bound from the first coordinates as they are: true of any vectors, and loose."""
    rest_N = vn_NF[:, count:].square().sum(dim=1).add(slack(vn_NF.dtype)).sqrt()
    return SimilarityBound(torch.cat((vn_NF[:, :count], rest_N[:, None]), dim=1), MOST_CANDIDATES)


def search(
    vn_NF: Tensor, bound: SimilarityBound | None, *, rows_Q: Tensor | None = None, block_bytes: int = 2**24
) -> tuple[Tensor, Tensor, Tensor]:
    rows_Q = torch.arange(0, len(vn_NF), 7) if rows_Q is None else rows_Q
    parts = list(nearest(vn_NF, rows_Q, COUNT, unit=True, bound=bound, block_bytes=block_bytes))
    rows, neighbors, distances = (torch.cat([part[place] for part in parts]) for place in range(3))
    return rows, neighbors, distances


def same(found: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(one, two) for one, two in zip(found, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_no_similarity_is_above_its_bound(noise: float, dtype: torch.dtype) -> None:
    vn_NF = near_few_axes(noise, dtype)
    bound = SimilarityBound.fitted(vn_NF, COUNT)
    assert bound is not None
    assert bound.y_NH.shape == (ROWS, 64)
    rows_B = torch.arange(0, ROWS, 97)
    exact_BN = vn_NF[rows_B].double() @ vn_NF.T.double()
    assert bool((bound.of(rows_B) >= exact_BN - slack(dtype)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_bounded_search_finds_the_same_to_the_last_bit(noise: float, dtype: torch.dtype) -> None:
    vn_NF = near_few_axes(noise, dtype)
    full = search(vn_NF, None)
    assert same(search(vn_NF, SimilarityBound.fitted(vn_NF, COUNT)), full)
    assert same(search(vn_NF, SimilarityBound.fitted(vn_NF, COUNT), block_bytes=2**22), full)


def test_rows_that_are_not_proven_are_searched_in_full() -> None:
    vn_NF = near_few_axes(0.1)
    loose = first_coordinates(vn_NF, 2)
    rows_B = torch.arange(0, ROWS, 700)
    edge_B = search(vn_NF, None, rows_Q=rows_B)[2][:, -1]
    close_B = (loose.of(rows_B) >= 1 - edge_B[:, None] / 2).sum(dim=1)
    assert bool((close_B > MOST_CANDIDATES + 1).all())  # it proves nothing
    assert same(search(vn_NF, loose, rows_Q=rows_B), search(vn_NF, None, rows_Q=rows_B))


def test_the_lowest_rows_win_where_more_are_equal_than_are_measured() -> None:
    vn_NF = near_few_axes(0.02)
    vn_NF[-MOST_CANDIDATES * 2 :] = vn_NF[5]
    bound = SimilarityBound.fitted(vn_NF, COUNT)
    assert bound is not None
    rows_Q = torch.tensor([5, ROWS - 1, 17])
    _, neighbor_QK, distance_QK = search(vn_NF, bound, rows_Q=rows_Q)
    first = ROWS - MOST_CANDIDATES * 2
    assert neighbor_QK[0].tolist() == list(range(first, first + COUNT))
    assert neighbor_QK[1].tolist() == [5, *range(first, first + COUNT - 1)]
    assert distance_QK[:2].tolist() == [[0.0] * COUNT] * 2


def test_there_is_no_bound_where_a_full_search_costs_less() -> None:
    spread_NF = F.normalize(torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    assert SimilarityBound.fitted(spread_NF, COUNT) is None
    assert SimilarityBound.fitted(near_few_axes(0.02)[: LEAST_ROWS - 1], COUNT) is None
    assert SimilarityBound.fitted(near_few_axes(0.02), MOST_CANDIDATES) is None

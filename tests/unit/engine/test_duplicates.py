from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from eif_engine.functional.agreement import neighborhood
from eif_engine.functional.duplicates import equal_pairs, groups_of, near_pairs, nearer_than, nearest_across


def reachable(pairs: list[tuple[int, int]], count: int) -> set[tuple[int, ...]]:
    """Groups by walking from every row until nothing new is met."""
    found = set()
    for start in range(count):
        group = {start}
        while True:
            grown = group | {b for a, b in pairs if a in group} | {a for a, b in pairs if b in group}
            if grown == group:
                break
            group = grown
        if len(group) > 1:
            found.add(tuple(sorted(group)))
    return found


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=20))
def test_groups_are_what_can_be_reached(pairs: list[tuple[int, int]]) -> None:
    groups = groups_of(pairs)
    assert {tuple(group) for group in groups} == reachable(pairs, 15)
    assert groups == sorted(groups)
    assert groups == groups_of(reversed(pairs))


def test_equal_digests_pair_with_the_first() -> None:
    digests = [b"a", None, b"b", b"a", None, b"b", b"a"]
    assert equal_pairs(digests) == [(0, 3), (2, 5), (0, 6)]


def test_near_pairs_are_all_that_lie_near() -> None:
    generator = torch.Generator().manual_seed(0)
    x_NF = torch.nn.functional.normalize(torch.randn(30, 3, generator=generator), dim=1)
    rows_N = torch.arange(30)
    near = neighborhood(x_NF, rows_N, 29)
    pairs = {tuple(sorted(pair)) for pair in near_pairs(rows_N, near.neighbor_QK, near.distance_QK, 0.05)}
    distance_NN = (x_NF[:, None] - x_NF[None]).square().sum(dim=2)
    expected = {(a, b) for a in range(30) for b in range(a + 1, 30) if distance_NN[a, b] <= 0.05}
    assert pairs == expected
    assert expected


def test_near_is_the_stricter_of_the_cosine_and_the_local_distance() -> None:
    assert nearer_than(0.98, typical=1.0) == 2 * (1 - 0.98)
    assert nearer_than(0.5, typical=0.4) == 0.2**2  # where all are alike, alike is not enough
    assert nearer_than(1.0, typical=1.0) == 0.0


def test_the_nearest_across_is_that_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(1)
    a_QD, b_ND = (torch.nn.functional.normalize(torch.randn(n, 5, generator=generator), dim=1) for n in (17, 40))
    row_Q, distance_Q = nearest_across(a_QD, b_ND, block_bytes=600)
    distance_QN = (a_QD[:, None] - b_ND[None]).square().sum(dim=2)
    assert torch.equal(row_Q, distance_QN.argmin(dim=1))
    assert torch.allclose(distance_Q, distance_QN.amin(dim=1))

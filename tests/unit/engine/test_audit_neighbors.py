"""Searches that are shared and cut into pieces: the same neighbours as from one search, and as from all distances."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from eif_engine.functional import neighbors
from eif_engine.functional.agreement import neighborhood
from eif_engine.functional.pieces import each_on_one_core
from eif_engine.jobs import audit_neighbors
from eif_engine.jobs.audit_data import prepare
from eif_engine.jobs.audit_neighbors import find_neighbors
from eif_engine.jobs.one_core import on_one_core_each
from eif_engine.types import no_progress
from tests.audits import quick, world


@pytest.mark.parametrize("columns", [1280, 1301])
def test_long_rows_are_sorted_in_strips_and_nothing_is_lost(columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    similarity_BN = torch.randn(20, columns, generator=generator)
    similarity_BN[3, -9:] = 10.0 + torch.arange(9)  # all in the last strip, or beyond it
    similarity_BN[4] = 1.0  # all equal
    values_BK, columns_BK = neighbors._most_similar(similarity_BN, 9)
    assert columns >= 4 * 9 * neighbors.STRIP
    assert torch.equal(values_BK, similarity_BN.topk(9, dim=1).values)
    assert torch.equal(similarity_BN.gather(1, columns_BK), values_BK)
    assert all(len(set(row)) == 9 for row in columns_BK.tolist())


def test_neighbours_of_many_are_those_of_all_distances() -> None:
    generator = torch.Generator().manual_seed(1)
    v_ND = torch.nn.functional.normalize(torch.randn(2000, 8, generator=generator), dim=1)
    v_ND[1000:1020] = v_ND[7]  # more equals than neighbours are asked for
    rows_Q = torch.tensor([0, 7, 999, 1005, 1999])
    near = neighborhood(v_ND, rows_Q, 4)
    for place, row in enumerate(rows_Q.tolist()):
        distance_N = (v_ND - v_ND[row]).square().sum(dim=1)
        order = [other for other in distance_N.sort(stable=True).indices.tolist() if other != row][:4]
        assert near.neighbor_QK[place].tolist() == order


def test_pieces_and_threads_change_no_neighbour(monkeypatch: pytest.MonkeyPatch) -> None:
    known = world()
    data = prepare(known.train, known.test, known.model)
    whole = find_neighbors(data, quick(), 1, no_progress)
    monkeypatch.setattr(audit_neighbors, "_PIECE", 7)
    told: list[tuple[int, int]] = []
    pieces = find_neighbors(data, quick(), 3, lambda done, total: told.append((done, total)))
    for name in ("train", "test", "train_embedding", "test_embedding"):
        one, other = getattr(whole, name), getattr(pieces, name)
        assert torch.equal(one.neighbor_QK, other.neighbor_QK), name
        assert torch.equal(one.distance_QK, other.distance_QK), name
    assert torch.equal(whole.across_M, pieces.across_M)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == told[-1][1]
    plain = neighborhood(known.train.features_NF, torch.arange(len(known.train)), 8)
    assert torch.equal(whole.train.neighbor_QK, plain.neighbor_QK)


def test_without_a_model_features_are_searched_once() -> None:
    known = world()
    near = find_neighbors(prepare(known.train, known.test, None), replace(quick()), 1, no_progress)
    assert near.train_embedding is near.train
    assert near.test_embedding is near.test


def test_pieces_come_back_in_their_order_on_one_core_each() -> None:
    before = torch.get_num_threads()

    def work(piece: int) -> tuple[int, int]:
        return piece, torch.get_num_threads()

    assert each_on_one_core(work, range(20), threads=3) == [(piece, 1) for piece in range(20)]
    assert on_one_core_each(work, range(20), threads=3) == [(piece, 1) for piece in range(20)]
    assert torch.get_num_threads() == before


def test_what_a_piece_raises_comes_out() -> None:
    def fail(piece: int) -> None:
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece 0"):
        each_on_one_core(fail, range(3), threads=2)

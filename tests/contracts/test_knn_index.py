"""What every KnnIndex must do, held against a brute-force search in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from eif_engine.errors import SampleUnknown
from services.embedding.faiss_index import MARGIN, FaissIndex, float32_error
from services.embedding.stored_vectors import VectorsWriter, read_vectors
from services.embedding.vectors import normalize

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from services.embedding.knn import KnnIndex, Neighbors
    from services.embedding.vectors import Float32


class MakeIndex(Protocol):
    def __call__(self, *, sample_ids: Sequence[str], labels: Sequence[str], vectors_ND: Float32) -> KnnIndex: ...


@pytest.fixture(params=[FaissIndex])
def make_index(request: pytest.FixtureRequest) -> MakeIndex:
    implementation: MakeIndex = request.param
    return implementation


def unit_vectors(count: int, dim: int, seed: int = 0) -> Float32:
    return normalize(np.random.default_rng(seed).standard_normal((count, dim)))


def names(count: int, seed: int = 1) -> list[str]:
    """Ids whose order is not the order of the rows."""
    return [f"s{number:06d}" for number in np.random.default_rng(seed).permutation(count)]


def labels_of(ids: Sequence[str]) -> list[str]:
    return [f"label of {sample_id}" for sample_id in ids]


def brute_force(
    ids: Sequence[str], vectors_ND: Float32, query_D: Float32, k: int, exclude: str | None = None
) -> list[tuple[float, str]]:
    """The definition: all distances in float64, rounded once, sorted by (distance, id)."""
    found = []
    for sample_id, vector_D in zip(ids, vectors_ND, strict=True):
        if sample_id != exclude:
            difference = vector_D.astype(np.float64) - query_D.astype(np.float64)
            squared = min(max(float(np.square(difference).sum()), 0.0), 4.0)
            found.append((float(np.float32(squared)), sample_id))
    return sorted(found)[:k]


def as_pairs(answer: Neighbors) -> list[tuple[float, str]]:
    assert answer.distances.dtype == np.float32
    assert answer.labels == tuple(labels_of(answer.sample_ids))
    return list(zip(answer.distances.tolist(), answer.sample_ids, strict=True))


@pytest.mark.parametrize("dim", [1, 3, 64, 513])
@pytest.mark.parametrize("queries", [1, 3, 40])
def test_agrees_with_brute_force_whatever_the_number_of_queries(make_index: MakeIndex, dim: int, queries: int) -> None:
    ids, vectors_ND, queries_QD = names(700), unit_vectors(700, dim), unit_vectors(queries, dim, seed=2)
    index = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    answers = index.search(queries_QD, k=12)
    assert [as_pairs(answer) for answer in answers] == [brute_force(ids, vectors_ND, q, 12) for q in queries_QD]


def test_equal_vectors_are_at_distance_zero_and_in_order_of_their_ids(make_index: MakeIndex) -> None:
    ids = names(30)
    vectors_ND = np.repeat(unit_vectors(1, 100), 30, axis=0)
    index = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    for queries in (1, 16):
        for answer in index.search(np.repeat(vectors_ND[:1], queries, axis=0), k=5):
            assert as_pairs(answer) == [(0.0, sample_id) for sample_id in sorted(ids)[:5]]


def test_ties_at_the_kth_neighbour_are_cut_by_id_however_many_there_are(make_index: MakeIndex) -> None:
    """More equal entries than any candidate list holds: those with the smallest ids must come."""
    tied, near = 3 * MARGIN + 100, 4
    rng = np.random.default_rng(3)
    base_ND = unit_vectors(near + 1, 48, seed=4)
    vectors_ND = np.concatenate([base_ND[:near], np.repeat(base_ND[near:], tied, axis=0), unit_vectors(50, 48, seed=5)])
    order = rng.permutation(len(vectors_ND))
    ids, vectors_ND = names(len(vectors_ND)), vectors_ND[order]
    index = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    query_D = base_ND[near]
    for k in (1, 7, tied - 1, tied, tied + 3):
        (answer,) = index.search(query_D[None], k=k)
        assert as_pairs(answer) == brute_force(ids, vectors_ND, query_D, k)


def test_near_ties_below_the_precision_of_float32_arithmetic_keep_their_exact_order(make_index: MakeIndex) -> None:
    """Entries that differ from the query by 1e-4 to 1e-3: float32 scores of them are noise, the answer is not."""
    rng = np.random.default_rng(6)
    query_D = unit_vectors(1, 256, seed=7)[0]
    vectors_ND = normalize(query_D + rng.uniform(1e-6, 1e-4, (400, 1)) * rng.standard_normal((400, 256)))
    ids = names(400)
    index = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    for answer in index.search(np.repeat(query_D[None], 8, axis=0), k=20):
        assert as_pairs(answer) == brute_force(ids, vectors_ND, query_D, 20)


def test_an_entry_is_not_its_own_neighbour_also_among_exact_duplicates(make_index: MakeIndex) -> None:
    ids = names(60)
    vectors_ND = unit_vectors(60, 16)
    vectors_ND[10:30] = vectors_ND[10]
    index = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    answers = index.search(vectors_ND, k=5, exclude=ids)
    assert [as_pairs(a) for a in answers] == [brute_force(ids, vectors_ND, vectors_ND[n], 5, ids[n]) for n in range(60)]
    assert all(sample_id not in answer.sample_ids for sample_id, answer in zip(ids, answers, strict=True))


def test_excluding_is_by_query_and_an_unknown_id_excludes_nothing(make_index: MakeIndex) -> None:
    ids, vectors_ND = ["a", "b", "c"], unit_vectors(3, 4)
    index = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    with_own, without_own, unknown = index.search(vectors_ND[[0, 0, 0]], k=1, exclude=[None, "a", "not there"])
    assert with_own.sample_ids == unknown.sample_ids == ("a",)
    assert "a" not in without_own.sample_ids


@pytest.mark.parametrize("exclude", [None, "s000003"])
def test_k_above_the_size_gives_all_there_are(make_index: MakeIndex, exclude: str | None) -> None:
    ids, vectors_ND = names(9), unit_vectors(9, 5)
    index = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    (answer,) = index.search(vectors_ND[:1], k=1000, exclude=[exclude])
    assert len(answer.sample_ids) == (9 if exclude is None else 8)
    assert as_pairs(answer) == brute_force(ids, vectors_ND, vectors_ND[0], 1000, exclude)


def test_an_empty_index_answers_with_nothing(make_index: MakeIndex) -> None:
    index = make_index(sample_ids=[], labels=[], vectors_ND=np.empty((0, 8), dtype=np.float32))
    assert (len(index), index.dim, index.nbytes) == (0, 8, 0)
    assert [answer.sample_ids for answer in index.search(unit_vectors(2, 8), k=3)] == [(), ()]


def test_an_index_of_one_entry(make_index: MakeIndex) -> None:
    vectors_ND = unit_vectors(1, 8)
    index = make_index(sample_ids=["only"], labels=labels_of(["only"]), vectors_ND=vectors_ND)
    assert as_pairs(index.search(vectors_ND, k=3)[0]) == [(0.0, "only")]
    assert as_pairs(index.search(-vectors_ND, k=3)[0]) == [(4.0, "only")]
    assert index.search(vectors_ND, k=3, exclude=["only"])[0].sample_ids == ()


def test_distances_stay_in_their_range(make_index: MakeIndex) -> None:
    vectors_ND = np.concatenate([unit_vectors(200, 37), -unit_vectors(200, 37)])
    ids = names(400)
    index = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    for answer in index.search(vectors_ND, k=400):
        assert answer.distances.min() == 0.0
        assert answer.distances.max() <= 4.0
        assert (np.diff(answer.distances) >= 0).all()


def test_no_queries_no_answers(make_index: MakeIndex) -> None:
    index = make_index(sample_ids=["a"], labels=["x"], vectors_ND=unit_vectors(1, 4))
    assert index.search(np.empty((0, 4), dtype=np.float32), k=3) == []


def test_vector_of_an_entry(make_index: MakeIndex) -> None:
    ids, vectors_ND = names(20), unit_vectors(20, 6)
    index = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    np.testing.assert_array_equal(index.vector(ids[7]), vectors_ND[7])
    with pytest.raises(SampleUnknown, match="no sample 'nobody'"):
        index.vector("nobody")


def test_a_caller_cannot_change_the_index(make_index: MakeIndex) -> None:
    vectors_ND = unit_vectors(5, 6)
    given_ND = vectors_ND.copy()
    index = make_index(sample_ids=list("abcde"), labels=labels_of("abcde"), vectors_ND=given_ND)
    given_ND[:] = 0
    index.vector("a")[:] = 0
    np.testing.assert_array_equal(index.vector("a"), vectors_ND[0])


def test_searches_at_the_same_time_do_not_disturb_each_other(make_index: MakeIndex) -> None:
    ids, vectors_ND = names(2000), unit_vectors(2000, 32)
    index = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    alone = [as_pairs(index.search(vectors_ND[n : n + 1], k=10)[0]) for n in range(64)]

    def search(start: int) -> list[list[tuple[float, str]]]:
        return [as_pairs(answer) for answer in index.search(vectors_ND[start : start + 16], k=10)]

    with ThreadPoolExecutor(4) as pool:
        together = [answer for _ in range(5) for part in pool.map(search, range(0, 64, 16)) for answer in part]
    assert together == alone * 5


def test_what_was_stored_comes_back_exactly(make_index: MakeIndex, tmp_path: Path) -> None:
    ids, vectors_ND = [*names(298), "ünï/códe 🙂", "x" * 300], unit_vectors(300, 24)
    with VectorsWriter(tmp_path / "v.parquet", dim=24) as writer:
        for start in range(0, 300, 77):
            part = slice(start, start + 77)
            writer.append(ids[part], labels_of(ids)[part], vectors_ND[part])
    stored = read_vectors(tmp_path / "v.parquet")
    before = make_index(sample_ids=ids, labels=labels_of(ids), vectors_ND=vectors_ND)
    after = make_index(sample_ids=stored.sample_ids, labels=stored.labels, vectors_ND=stored.vectors_ND)
    for own, other in zip(before.search(vectors_ND, k=7), after.search(vectors_ND, k=7), strict=True):
        assert as_pairs(own) == as_pairs(other)


def test_wrong_construction_is_refused(make_index: MakeIndex) -> None:
    with pytest.raises(ValueError, match="not unique"):
        make_index(sample_ids=["a", "a"], labels=["x", "x"], vectors_ND=unit_vectors(2, 4))
    with pytest.raises(ValueError, match="do not match"):
        make_index(sample_ids=["a"], labels=["x", "x"], vectors_ND=unit_vectors(2, 4))
    index = make_index(sample_ids=["a"], labels=["x"], vectors_ND=unit_vectors(1, 4))
    with pytest.raises(ValueError, match="at least 1"):
        index.search(unit_vectors(1, 4), k=0)


def test_the_error_bound_holds_for_what_faiss_computes() -> None:
    """The bound is what makes the candidate list complete, so it is checked against faiss itself."""
    for dim in (2, 64, 1024):
        vectors_ND = normalize(np.abs(unit_vectors(300, dim)) + 1)  # all near each other: the worst cancellation
        index = FaissIndex(sample_ids=names(300), labels=names(300), vectors_ND=vectors_ND)
        for queries in (1, 64):
            approx_QM, rows_QM = index._flat.search(vectors_ND[:queries], 300)
            wide_ND = vectors_ND.astype(np.float64)
            exact_QM = np.square(wide_ND[:queries, None] - wide_ND[rows_QM]).sum(axis=2)
            assert np.abs(approx_QM - exact_QM).max() <= float32_error(dim)

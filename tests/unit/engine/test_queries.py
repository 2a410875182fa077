from __future__ import annotations

import pytest
import torch

from eif_engine.config import QueryKind
from eif_engine.errors import LabelUnknown, SampleUnknown
from eif_engine.jobs.queries import find_queries, named_pairs
from tests import oracles
from tests.toy import toy


def find(kind: QueryKind, **more: object) -> list[tuple[str, tuple[tuple[int, int], ...]]]:
    data = toy()
    found = find_queries(
        embeddings_MD=data.head.embed(data.test_MF),
        labels=data.test_labels,
        sample_ids=data.test_ids,
        kind=kind,
        **more,  # type: ignore[arg-type]  # a table of keyword arguments
    )
    return [(query.query_id, tuple((pair.row, pair.neighbor) for pair in query.pairs)) for query in found]


def expected_confusions() -> list[tuple[int, int]]:
    data = toy()
    z_MD = data.head.embed(data.test_MF)
    found = []
    for row in range(len(z_MD)):
        value, other = oracles.nearest_rows(z_MD, row, 1)[0]
        if data.test_labels[row] != data.test_labels[other]:
            found.append((value, row, other))
    return [(row, other) for _, row, other in sorted(found)]


def test_confusions_are_nearest_others_of_another_label_closest_first() -> None:
    found = find(QueryKind.CONFUSION_PAIRS)
    assert [pairs[0] for _, pairs in found] == expected_confusions()
    assert found[0][0] == f"pair:t{found[0][1][0][0]:02d}:t{found[0][1][0][1]:02d}"
    assert find(QueryKind.CONFUSION_PAIRS, max_queries=2) == found[:2]


def test_groups_hold_the_confusions_of_a_class_largest_first() -> None:
    data, found = toy(), find(QueryKind.CONFUSION_GROUPS)
    assert sorted(pair for _, pairs in found for pair in pairs) == sorted(expected_confusions())
    assert [len(pairs) for _, pairs in found] == sorted((len(pairs) for _, pairs in found), reverse=True)
    for query_id, pairs in found:
        assert {f"class:{data.test_labels[row]}" for row, _ in pairs} == {query_id}


def test_classes_restrict_the_first_sample() -> None:
    data = toy()
    found = find(QueryKind.CONFUSION_PAIRS, classes=["c1"])
    assert [pairs[0] for _, pairs in found] == [p for p in expected_confusions() if data.test_labels[p[0]] == "c1"]
    with pytest.raises(LabelUnknown, match="'nobody'"):
        find(QueryKind.CONFUSION_PAIRS, classes=["nobody"])


def test_mis_similar_pairs_share_a_label_farthest_first() -> None:
    data = toy()
    z_MD = data.head.embed(data.test_MF)
    found = [pairs[0] for _, pairs in find(QueryKind.MIS_SIMILAR_PAIRS)]
    values = []
    for row, other in found:
        assert data.test_labels[row] == data.test_labels[other]
        same = [v for v, o in oracles.nearest_rows(z_MD, row, 99) if data.test_labels[o] == data.test_labels[row]]
        values.append(max(same))
        assert float(oracles.distance(z_MD[row], z_MD[other], "squared_euclidean")) == pytest.approx(max(same))
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("kind", list(QueryKind))
@pytest.mark.parametrize("labels", [[], ["a"], ["a", "a"], ["a", "b"]], ids=str)
def test_small_sets(kind: QueryKind, labels: list[str]) -> None:
    z_MD = torch.randn(len(labels), 3, dtype=torch.float64)
    found = find_queries(embeddings_MD=z_MD, labels=labels, sample_ids=[str(i) for i in range(len(labels))], kind=kind)
    confused = labels == ["a", "b"] and kind is not QueryKind.MIS_SIMILAR_PAIRS
    similar = labels == ["a", "a"] and kind is QueryKind.MIS_SIMILAR_PAIRS
    assert len(found) == (2 if confused or similar else 0)


def test_duplicates_across_labels_are_confusions_at_distance_zero() -> None:
    z_MD = torch.ones(4, 3, dtype=torch.float64)
    found = find_queries(
        embeddings_MD=z_MD, labels=["a", "b", "a", "b"], sample_ids=list("wxyz"), kind=QueryKind.CONFUSION_PAIRS
    )
    assert [(q.pairs[0].row, q.pairs[0].neighbor, q.pairs[0].distance) for q in found] == [
        (0, 1, 0.0),
        (1, 0, 0.0),
        (3, 0, 0.0),
    ]


def test_named_pairs_keep_their_order_and_name_an_unknown_id() -> None:
    data = toy()
    z_MD = data.head.embed(data.test_MF)
    found = named_pairs(pairs=[("t03", "t01"), ("t00", "t09")], embeddings_MD=z_MD, sample_ids=data.test_ids)
    assert [(q.pairs[0].row, q.pairs[0].neighbor) for q in found] == [(3, 1), (0, 9)]
    assert found[0].pairs[0].distance == pytest.approx(float(oracles.distance(z_MD[3], z_MD[1], "squared_euclidean")))
    with pytest.raises(SampleUnknown, match="'t99'"):
        named_pairs(pairs=[("t00", "t99")], embeddings_MD=z_MD, sample_ids=data.test_ids)


def test_query_ids_are_unique_also_when_ids_hold_colons() -> None:
    z_MD = torch.randn(3, 2, dtype=torch.float64)
    pairs = [("a:b", "c"), ("a", "b:c")]
    for first, second in pairs:
        (query,) = named_pairs(pairs=[(first, second)], embeddings_MD=z_MD[:2], sample_ids=[first, second])
        assert query.query_id == f"pair:{first.replace(':', '%3A')}:{second.replace(':', '%3A')}"

"""From test embeddings to the confusions that a job explains."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.config import QueryKind
from eif_engine.errors import LabelUnknown, SampleUnknown
from eif_engine.functional.neighbors import farthest_of_class, nearest_other, squared_distances
from eif_engine.types import Pair, Query


def find_queries(
    *,
    embeddings_MD: Tensor,
    labels: Sequence[str],
    sample_ids: Sequence[str],
    kind: QueryKind,
    max_queries: int | None = None,
    classes: Sequence[str] = (),
) -> list[Query]:
    """The queries of a kind, in its order (closest confusion, farthest mis-similar pair, largest group first).

    Args:
        embeddings_MD: Test embeddings; need not be normalised.
        labels: Their labels.
        sample_ids: Their ids.
        kind: What a query is made of.
        max_queries: At most this many; None means all.
        classes: Only queries whose (first) sample has one of these labels; empty means all.

    Raises:
        LabelUnknown: One of `classes` is not among the labels.
    """
    known = set(labels)
    for label in classes:
        if label not in known:
            raise LabelUnknown(f"class {label!r} is asked for, but no test sample has that label", label=label)
    pairs = (
        _mis_similar(embeddings_MD, labels)
        if kind is QueryKind.MIS_SIMILAR_PAIRS
        else confusions(embeddings_MD, labels)
    )
    wanted = [pair for pair in pairs if not classes or labels[pair.row] in set(classes)]
    if kind is QueryKind.CONFUSION_GROUPS:
        return group_by_class(wanted, labels)[:max_queries]
    return [pair_query(pair, sample_ids, kind) for pair in wanted[:max_queries]]


def confusions(embeddings_MD: Tensor, labels: Sequence[str]) -> list[Pair]:
    """Every sample whose nearest other sample has another label, with that one; closest first, then by row."""
    if len(labels) < 2:
        return []
    neighbor_M, distance_M = nearest_other(embeddings_MD)
    found = _pairs(range(len(labels)), neighbor_M, distance_M)
    return sorted(
        (pair for pair in found if labels[pair.row] != labels[pair.neighbor]),
        key=lambda pair: (pair.distance, pair.row),
    )


def named_pairs(
    *,
    pairs: Sequence[tuple[str, str]],
    embeddings_MD: Tensor,
    sample_ids: Sequence[str],
    kind: QueryKind = QueryKind.CONFUSION_PAIRS,
) -> list[Query]:
    """Queries for pairs of sample ids, in the order given.

    Raises:
        SampleUnknown: An id is not among `sample_ids`.
    """
    row_of = {sample_id: row for row, sample_id in enumerate(sample_ids)}
    for sample_id in (sample_id for pair in pairs for sample_id in pair):
        if sample_id not in row_of:
            raise SampleUnknown(
                f"sample {sample_id!r} of the pairs asked for is not among the test samples", sample_id=sample_id
            )
    rows = [(row_of[first], row_of[second]) for first, second in pairs]
    return [pair_query(pair, sample_ids, kind) for pair in row_pairs(rows, embeddings_MD)]


def row_pairs(rows: Sequence[tuple[int, int]], embeddings_MD: Tensor) -> list[Pair]:
    """Pairs of rows with their distances."""
    if not rows:
        return []
    first, second = torch.tensor(rows, device=embeddings_MD.device).T
    zn_MD = F.normalize(embeddings_MD, dim=1)
    return _pairs(first.tolist(), second, squared_distances(zn_MD[first], zn_MD[second]))


def group_by_class(pairs: Sequence[Pair], labels: Sequence[str]) -> list[Query]:
    """One query a class with all its pairs; the largest first, then by label."""
    members: dict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        members[labels[pair.row]].append(pair)
    order = sorted(members, key=lambda label: (-len(members[label]), label))
    return [
        Query(query_id=f"class:{label}", kind=QueryKind.CONFUSION_GROUPS, pairs=tuple(members[label]))
        for label in order
    ]


def pair_query(pair: Pair, sample_ids: Sequence[str], kind: QueryKind) -> Query:
    """A query of one pair; a colon in an id is written %3A (and a percent sign %25), so that query ids are unique."""
    ends = (sample_ids[row].replace("%", "%25").replace(":", "%3A") for row in (pair.row, pair.neighbor))
    return Query(query_id=":".join(("pair", *ends)), kind=kind, pairs=(pair,))


def _mis_similar(embeddings_MD: Tensor, labels: Sequence[str]) -> list[Pair]:
    """Every sample with the farthest other sample of its label; farthest first, then by row."""
    codes = {label: code for code, label in enumerate(dict.fromkeys(labels))}
    if len(labels) < 2:
        return []
    labels_M = torch.tensor([codes[label] for label in labels], device=embeddings_MD.device)
    neighbor_M, distance_M = farthest_of_class(embeddings_MD, labels_M)
    found = _pairs(range(len(labels)), neighbor_M, distance_M)
    return sorted((pair for pair in found if pair.neighbor >= 0), key=lambda pair: (-pair.distance, pair.row))


def _pairs(rows: Sequence[int], neighbor_M: Tensor, distance_M: Tensor) -> list[Pair]:
    triples = zip(rows, neighbor_M.tolist(), distance_M.tolist(), strict=True)
    return [Pair(row=row, neighbor=neighbor, distance=distance) for row, neighbor, distance in triples]

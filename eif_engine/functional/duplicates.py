"""Groups of samples that are the same or nearly so, from lists of neighbours: never an N x N matrix."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from eif_engine.functional.neighbors import BLOCK_BYTES, blocks, squared_distances

LOCAL = 0.5
"""A near duplicate is at most so far away as this share of the median distance to the k-th neighbour. Where all images
are alike (strokes, faces cut alike) a cosine of 0.99 is common; closer than neighbours are is not."""


def nearer_than(cosine: float, typical: float) -> float:
    """Squared distance up to which two unit vectors are near duplicates.

    Args:
        cosine: The least cosine.
        typical: Median distance (not squared) to the k-th neighbour.
    """
    return min(2 * (1 - cosine), (LOCAL * typical) ** 2)


def near_pairs(rows_Q: Tensor, neighbor_QK: Tensor, distance_QK: Tensor, most: float) -> list[tuple[int, int]]:
    """Rows and their neighbours at most so far away (squared distance)."""
    place_P, column_P = (distance_QK <= most).nonzero(as_tuple=True)
    pair_PS = torch.stack((rows_Q[place_P], neighbor_QK[place_P, column_P]), dim=1)
    return [(first, second) for first, second in pair_PS.tolist()]


def equal_pairs(digests: Sequence[bytes | None]) -> list[tuple[int, int]]:
    """Each row with the first one of the same digest; rows without a digest have none."""
    first: dict[bytes, int] = {}
    return [
        (first[digest], row)
        for row, digest in enumerate(digests)
        if digest is not None and first.setdefault(digest, row) != row
    ]


def groups_of(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Rows that pairs connect, however far round (union-find); each group ascending, the groups by their first row."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        parent.setdefault(row, row)
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    members: dict[int, list[int]] = defaultdict(list)
    for row in sorted(parent):
        members[root(row)].append(row)
    return [members[first] for first in sorted(members) if len(members[first]) > 1]


def nearest_across(vn_QD: Tensor, vn_ND: Tensor, *, block_bytes: int = BLOCK_BYTES) -> tuple[Tensor, Tensor]:
    """For each unit vector of one set the nearest of another (Q,), and the squared distance to it (Q,)."""
    found_Q = torch.zeros(len(vn_QD), dtype=torch.int64, device=vn_QD.device)
    for part in blocks(len(vn_QD), len(vn_ND), vn_ND.element_size(), block_bytes):
        found_Q[part] = (vn_QD[part] @ vn_ND.T).argmax(dim=1)
    return found_Q, squared_distances(vn_QD, vn_ND[found_Q])

"""Exact nearest and farthest neighbours in blocks of rows: never an N x N matrix.

Distances are squared Euclidean between L2-normalised vectors, in [0, 4]. Blocks select candidates by a matrix product;
the distances returned are computed again from differences, so that they are symmetric, and 0 between equal vectors.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from eif_engine.functional.similarity_bound import SimilarityBound, slack

BLOCK_BYTES = 64 * 2**20
"""Memory of one block of similarities."""

MARGIN = 8
"""Candidates beyond the neighbours asked for; where more are as near, they are looked at one by one."""

_CACHE_BYTES = 2**20
"""Differences that are made, squared and added up before the next ones are."""

STRIP = 32
"""Columns of which only the largest is looked at before the nearest are sorted."""


def blocks(rows: int, columns: int, itemsize: int, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Slices of `rows` whose (block, columns) matrix stays under `block_bytes`; at least one row each."""
    step = max(1, block_bytes // max(1, columns * itemsize))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def squared_distances(vn_AD: Tensor, vn_BD: Tensor) -> Tensor:
    """|a - b|^2 row by row (A,), from differences."""
    return (vn_AD - vn_BD).square().sum(dim=-1)


def nearest_other(v_ND: Tensor, *, block_bytes: int = BLOCK_BYTES) -> tuple[Tensor, Tensor]:
    """For each row its nearest other row (N,) and their distance (N,); the lowest row among equals. Needs N >= 2."""
    vn_ND = F.normalize(v_ND, dim=1)
    neighbor_N = torch.empty(len(vn_ND), dtype=torch.int64, device=vn_ND.device)
    for rows in blocks(len(vn_ND), len(vn_ND), vn_ND.element_size(), block_bytes):
        similarity_BN = vn_ND[rows] @ vn_ND.T
        _hide_self(similarity_BN, rows)
        neighbor_N[rows] = similarity_BN.argmax(dim=1)
    return neighbor_N, squared_distances(vn_ND, vn_ND[neighbor_N])


def farthest_of_class(v_ND: Tensor, labels_N: Tensor, *, block_bytes: int = BLOCK_BYTES) -> tuple[Tensor, Tensor]:
    """For each row the farthest other row of its label (N,), -1 where there is none, and their distance (N,)."""
    vn_ND = F.normalize(v_ND, dim=1)
    neighbor_N = torch.empty(len(vn_ND), dtype=torch.int64, device=vn_ND.device)
    for rows in blocks(len(vn_ND), len(vn_ND), vn_ND.element_size(), block_bytes):
        similarity_BN = vn_ND[rows] @ vn_ND.T
        same_BN = labels_N[rows, None] == labels_N[None, :]
        same_BN[torch.arange(len(same_BN), device=same_BN.device), torch.arange(rows.start, rows.stop)] = False
        neighbor_N[rows] = similarity_BN.where(same_BN, torch.inf).argmin(dim=1).where(same_BN.any(dim=1), -1)
    return neighbor_N, squared_distances(vn_ND, vn_ND[neighbor_N])


def nearest(
    v_ND: Tensor,
    rows_Q: Tensor,
    count: int,
    *,
    block_bytes: int = BLOCK_BYTES,
    unit: bool = False,
    bound: SimilarityBound | None = None,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The `count` nearest other rows of each of `rows_Q`, in blocks.

    Args:
        v_ND: Vectors.
        rows_Q: Rows whose neighbours are looked for.
        count: How many of each.
        block_bytes: Memory of a block of similarities.
        unit: Whether the vectors are of unit length already; no copy of them is made then.
        bound: Of these vectors; what is found is the same, in less time where it proves much. All comes in one block.

    Yields:
        The rows of the block (B,), their neighbours (B, count) nearest first and lowest row first among equals, and the
        distances (B, count). `count` is cut to N - 1.
    """
    vn_ND = v_ND if unit else F.normalize(v_ND, dim=1)
    count = min(count, len(vn_ND) - 1)
    if bound is None or not len(rows_Q):
        yield from _nearest_of_all(vn_ND, rows_Q, count, block_bytes)
        return
    yield rows_Q, *_nearest_by(bound, vn_ND, rows_Q, count, block_bytes)


def _nearest_by(
    bound: SimilarityBound, vn_ND: Tensor, rows_Q: Tensor, count: int, block_bytes: int
) -> tuple[Tensor, Tensor]:
    """The neighbours (Q, count) of all rows, and the distances; rows that are not proven are searched in full."""
    room_BN, parts = _room(vn_ND, rows_Q, len(vn_ND), block_bytes)
    found = [_nearest_bounded(vn_ND, rows_Q[part], count, bound, room_BN[: part.stop - part.start]) for part in parts]
    neighbor_QK, distance_QK, proven_Q = (torch.cat(each) for each in zip(*found, strict=True))
    del room_BN
    left_R = (~proven_Q).nonzero().flatten()
    full = list(_nearest_of_all(vn_ND, rows_Q[left_R], count, block_bytes))
    if full:
        neighbor_QK[left_R] = torch.cat([neighbor_BK for _, neighbor_BK, _ in full])
        distance_QK[left_R] = torch.cat([distance_BK for _, _, distance_BK in full])
    return neighbor_QK, distance_QK


def _room(vn_ND: Tensor, rows_Q: Tensor, widest: int, block_bytes: int) -> tuple[Tensor, list[slice]]:
    """Memory for the similarities of one block after the other, and the blocks.

    Fresh pages for each would cost as much as the product itself.
    """
    parts = list(blocks(len(rows_Q), widest, vn_ND.element_size(), block_bytes))
    return vn_ND.new_empty(parts[0].stop if parts else 0, len(vn_ND)), parts


def _nearest_bounded(
    vn_ND: Tensor, rows_B: Tensor, count: int, bound: SimilarityBound, room_BN: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest among the rows of the largest bounds, their distances, and whether no other can be nearer (B,)."""
    most_BN = bound.of(rows_B, out=room_BN)
    most_BN[torch.arange(len(rows_B), device=rows_B.device), rows_B] = -torch.inf
    most_BC, candidate_BC = _most_similar(most_BN, bound.candidates + 1)
    neighbor_BK, distance_BK = _nearest_candidates(vn_ND, rows_B, candidate_BC[:, :-1], count)
    farthest_B = 1 - distance_BK[:, -1] / 2
    return neighbor_BK, distance_BK, most_BC[:, -1] < farthest_B - slack(vn_ND.dtype)


def _nearest_candidates(vn_ND: Tensor, rows_B: Tensor, candidate_BC: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest of the candidates of each row, the lowest rows among equals, and their distances."""
    candidate_BC = candidate_BC.sort(dim=1).values
    distance_BC = vn_ND.new_empty(candidate_BC.shape)
    for part in blocks(len(rows_B), candidate_BC.shape[1] * vn_ND.shape[1], vn_ND.element_size(), _CACHE_BYTES):
        distance_BC[part] = squared_distances(vn_ND[rows_B[part], None], vn_ND[candidate_BC[part]])
    order_BK = distance_BC.sort(dim=1, stable=True).indices[:, :count]
    return candidate_BC.gather(1, order_BK), distance_BC.gather(1, order_BK)


def _nearest_of_all(
    vn_ND: Tensor, rows_Q: Tensor, count: int, block_bytes: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """What `nearest` yields, from similarities to all rows."""
    width = min(count + MARGIN, len(vn_ND) - 1)
    widest = max(len(vn_ND), width * vn_ND.shape[1])  # similarities to all, or differences to candidates
    room_BN, parts = _room(vn_ND, rows_Q, widest, block_bytes)
    for part in parts:
        rows_B = rows_Q[part]
        similarity_BN = torch.mm(vn_ND[rows_B], vn_ND.T, out=room_BN[: len(rows_B)])
        similarity_BN[torch.arange(len(rows_B), device=rows_B.device), rows_B] = -torch.inf
        # A few more than asked for: rounding must not decide between equals at the edge.
        similar_BK, candidate_BK = _most_similar(similarity_BN, min(width + 1, len(vn_ND)))
        edge_B = similar_BK[:, count - 1] - slack(vn_ND.dtype)
        crowded_B = (similar_BK[:, width:] >= edge_B[:, None]).any(dim=1)
        neighbor_BK, distance_BK = _nearest_candidates(vn_ND, rows_B, candidate_BK[:, :width], count)
        for row in crowded_B.nonzero().flatten().tolist():
            candidates = (similarity_BN[row] >= edge_B[row]).nonzero().flatten()
            neighbor_BK[row], distance_BK[row] = _nearest_of(vn_ND, int(rows_B[row]), candidates, count, block_bytes)
        yield rows_B, neighbor_BK, distance_BK


def _most_similar(similarity_BN: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The `width` largest of each row and their columns, the largest first.

    In long rows they lie among the strips with the largest maxima: one pass finds those, and few columns are sorted.
    """
    strips = similarity_BN.shape[1] // STRIP
    if strips < 4 * width:
        return similarity_BN.topk(width, dim=1)
    largest_BT = similarity_BN[:, : strips * STRIP].reshape(len(similarity_BN), strips, STRIP).amax(dim=2)
    strip_BT = largest_BT.topk(width, dim=1).indices
    within_S = torch.arange(STRIP, device=similarity_BN.device)
    column_BC = (strip_BT[:, :, None] * STRIP + within_S).flatten(1)
    rest = torch.arange(strips * STRIP, similarity_BN.shape[1], device=similarity_BN.device)
    column_BC = torch.cat((column_BC, rest.expand(len(column_BC), -1)), dim=1)
    similar_BK, place_BK = similarity_BN.gather(1, column_BC).topk(width, dim=1)
    return similar_BK, column_BC.gather(1, place_BK)


def _nearest_of(vn_ND: Tensor, row: int, candidates: Tensor, count: int, block_bytes: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest of candidate rows in ascending order; the lowest rows among equals."""
    parts = blocks(len(candidates), vn_ND.shape[1], vn_ND.element_size(), block_bytes)
    distances = torch.cat([squared_distances(vn_ND[row], vn_ND[candidates[part]]) for part in parts])
    order = distances.sort(stable=True).indices[:count]
    return candidates[order], distances[order]


def _hide_self(similarity_BN: Tensor, rows: slice) -> None:
    block = torch.arange(len(similarity_BN), device=similarity_BN.device)
    similarity_BN[block, block + rows.start] = -torch.inf

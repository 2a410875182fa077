from __future__ import annotations

import math

import pytest
import torch

from eif_engine.functional.retrieval import average_precision, retrieve


def loops(z_MD: torch.Tensor, labels: list[int], ks: list[int]) -> tuple[list[list[bool]], list[float], list[int]]:
    """Recall@k and MAP@R by definition, in float64, one query after the other; equals by row."""
    zn = torch.nn.functional.normalize(z_MD.double(), dim=1)
    hits, precisions, nearest = [], [], []
    for row in range(len(labels)):
        others = [(float((zn[row] - zn[other]).square().sum()), other) for other in range(len(labels)) if other != row]
        order = [other for _, other in sorted(others)]
        right = [labels[other] == labels[row] for other in order]
        hits.append([any(right[:k]) for k in ks])
        nearest.append(order[0])
        R = sum(right)
        terms = [sum(right[: i + 1]) / (i + 1) for i in range(R) if right[i]]
        precisions.append(sum(terms) / R if R else math.nan)
    return hits, precisions, nearest


@pytest.mark.parametrize("seed", range(4))
def test_recall_and_map_at_r_are_those_of_the_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z_MD = torch.randn(60, 3, generator=generator, dtype=torch.float64)
    labels_M = torch.randint(9, (60,), generator=generator)
    labels_M[:25] = 1  # a large class
    labels_M[7] = 20  # the only one of its class
    found = retrieve(z_MD, labels_M, (1, 2, 5), block_bytes=2000)
    hits, precisions, nearest = loops(z_MD, labels_M.tolist(), [1, 2, 5])
    assert found.neighbor_M.tolist() == nearest
    for place, k in enumerate((1, 2, 5)):
        assert found.recall_at(k).tolist() == [hit[place] for hit in hits]
    assert found.average_precision_M.tolist() == pytest.approx(precisions, abs=1e-12, nan_ok=True)
    assert math.isnan(float(found.average_precision_M[7]))


def test_the_nearest_is_exact_among_duplicates() -> None:
    generator = torch.Generator().manual_seed(0)
    z_MD = torch.randn(8, 4, generator=generator).repeat(6, 1)  # every vector six times
    labels_M = torch.arange(48) % 5
    found = retrieve(z_MD, labels_M, (1, 7))
    _, precisions, nearest = loops(z_MD, labels_M.tolist(), [1])
    assert found.neighbor_M.tolist() == nearest
    assert not bool((found.neighbor_M == torch.arange(48)).any())
    assert float(found.distance_M.max()) == 0
    assert found.average_precision_M.tolist() == pytest.approx(precisions)


def test_blocks_change_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    z_MD, labels_M = torch.randn(200, 6, generator=generator), torch.randint(12, (200,), generator=generator)
    whole, parts = retrieve(z_MD, labels_M, (1, 4)), retrieve(z_MD, labels_M, (1, 4), block_bytes=1)
    for name, value in vars(whole).items():
        assert torch.equal(value, getattr(parts, name)), name


def test_a_perfect_and_a_hopeless_order() -> None:
    hit_BK = torch.tensor([[True, True, False], [False, False, True], [True, False, True]])
    assert average_precision(hit_BK, torch.tensor([2, 2, 3])).tolist() == pytest.approx([1.0, 0.0, (1 + 2 / 3) / 3])

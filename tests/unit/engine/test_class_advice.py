from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eif_engine.functional.class_advice import Advice, ClassAdvice, advise
from eif_engine.functional.class_overlap import overlaps


def advised(samples: int, targets: list[int]) -> ClassAdvice:
    """Advice on class 0, of whose samples the first look like these classes."""
    given = np.zeros(samples, dtype=np.int64)
    suggested = given.copy()
    suggested[: len(targets)] = targets
    return advise(given, suggested, 9)[0]


@pytest.mark.parametrize(
    ("samples", "targets", "advice"),
    [
        (20, [], Advice.NONE),
        (20, [3], Advice.INDIVIDUAL),  # 5 %
        (6, [3], Advice.INDIVIDUAL),  # 17 %, but one sample
        (30, [3, 3], Advice.OTHER),  # 6.7 %
        (20, [3, 3], Advice.CENTRALIZED),  # 10 %, one target
        (20, [3, 4], Advice.DIVERSIFIED),
        (40, [3] * 19 + [4], Advice.CENTRALIZED),  # entropy 0.29
        (40, [3] * 9 + [4], Advice.DIVERSIFIED),  # entropy 0.47
        (10, [3] * 10, Advice.CENTRALIZED),  # nothing of the class is left
    ],
)
def test_advice_goes_by_share_and_entropy(samples: int, targets: list[int], advice: Advice) -> None:
    found = advised(samples, targets)
    assert found.advice is advice
    assert found.samples == samples
    assert found.elsewhere == len(targets) / samples
    assert found.top_target == (3 if targets else None)


def test_entropy_is_in_nats_over_the_log_of_the_number_of_labels() -> None:
    found = advised(20, [3, 3, 3, 5])
    by_hand = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert found.entropy == pytest.approx(by_hand)
    assert found.top_share == 0.75
    assert advised(20, [1, 2, 3, 4]).entropy == pytest.approx(1.0)


def test_the_top_target_is_never_the_class_itself() -> None:
    """The published code reads the second most frequent label, which is the class itself where most of it moves."""
    found = advised(10, [4] * 8)
    assert (found.top_target, found.top_share, found.elsewhere) == (4, 1.0, 0.8)


def test_every_class_is_advised_on() -> None:
    given, suggested = np.array([0, 0, 2, 2, 2]), np.array([0, 2, 2, 2, 2])
    assert [each.samples for each in advise(given, suggested, 4)] == [2, 0, 3, 0]


def clusters(centers: int, shots: int, seed: int, spread: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels_N = torch.arange(centers * shots) % centers
    center_CF = torch.randn(centers, 64, generator=generator)
    return center_CF[labels_N] + spread * torch.randn(len(labels_N), 64, generator=generator), labels_N


@pytest.mark.parametrize("seed", range(3))
def test_a_class_cut_in_two_overlaps_and_neighbours_do_not(seed: int) -> None:
    v_NF, labels_N = clusters(12, 20, seed)
    cut_N = labels_N.clone()
    cut_N[(labels_N == 4).nonzero().flatten()[::2]] = 12
    pairs_PS, overlap_P = overlaps(v_NF, cut_N, 13)
    found = {tuple(pair): overlap for pair, overlap in zip(pairs_PS.tolist(), overlap_P.tolist(), strict=True)}
    assert found[4, 12] >= 0.7
    assert max(overlap for pair, overlap in found.items() if pair != (4, 12)) <= 0.1


def test_classes_that_touch_overlap_as_far_as_they_are_confused() -> None:
    """Two Gaussians in the plane, delta standard deviations apart: 2 Phi(-delta / 2)."""
    generator = torch.Generator().manual_seed(0)
    delta, spread = 1.5, 0.01
    angle = torch.tensor([0.0, delta * spread]).repeat(4000) + spread * torch.randn(8000, generator=generator)
    v_NF = torch.stack((angle.cos(), angle.sin()), dim=1)
    pairs_PS, overlap_P = overlaps(v_NF, torch.arange(8000) % 2, 2)
    assert pairs_PS.tolist() == [[0, 1]]
    assert float(overlap_P[0]) == pytest.approx(math.erfc(delta / 2 / math.sqrt(2)), abs=0.02)


@pytest.mark.parametrize("doubted", [False, True])
def test_overlap_is_that_of_the_loops(*, doubted: bool) -> None:
    v_NF, labels_N = clusters(4, 9, 5, spread=2.0)
    v_NF, labels_N = v_NF[:-3], labels_N[:-3]
    suggested_N = labels_N.clone()
    if doubted:  # two samples look like a class that is compared, one of each like the next
        suggested_N[[0, 8]], suggested_N[[1, 2, 3]] = 1, torch.tensor([2, 3, 0])
    pairs_PS, overlap_P = overlaps(v_NF, labels_N, 5, suggested_N=suggested_N if doubted else None)
    unit = torch.nn.functional.normalize(v_NF.double(), dim=1)
    assert pairs_PS.tolist() == [[a, b] for a in range(4) for b in range(a + 1, 4)]
    for (a, b), overlap in zip(pairs_PS.tolist(), overlap_P.tolist(), strict=True):
        rows = {
            c: [row for row in range(len(unit)) if int(labels_N[row]) == c and int(suggested_N[row]) in {a, b}]
            for c in (a, b)
        }
        rates = []
        for own, other in ((a, b), (b, a)):
            errors = 0
            for row in rows[own]:
                center = unit[[each for each in rows[own] if each != row]].mean(dim=0)
                errors += bool((unit[row] - unit[rows[other]].mean(dim=0)).norm() < (unit[row] - center).norm())
            rates.append(errors / len(rows[own]))
        assert overlap == pytest.approx(min(1.0, sum(rates)))


def test_samples_that_look_like_a_third_class_do_not_join_two() -> None:
    """Half of class 0 are of class 2, on the other side: its centre is nowhere, and class 1 nearer to the rest."""
    noise = 0.01 * torch.randn(24, generator=torch.Generator().manual_seed(0))
    angle = torch.tensor([0.0] * 4 + [math.pi] * 4 + [math.pi / 4] * 8 + [math.pi] * 8) + noise
    v_NF, labels_N = torch.stack((angle.cos(), angle.sin()), dim=1), torch.arange(24) // 8
    suggested_N = labels_N.clone()
    suggested_N[4:8] = 2
    pairs_PS, blind_P = overlaps(v_NF, labels_N, 3)
    _, told_P = overlaps(v_NF, labels_N, 3, suggested_N=suggested_N)
    assert pairs_PS.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert (float(blind_P[0]), float(told_P[0])) == (0.5, 0.0)
    assert float(told_P[1]) == float(blind_P[1]) == 0.5  # those who are in doubt between the two stay


def test_a_class_of_which_too_few_samples_are_left_overlaps_with_none() -> None:
    v_NF, labels_N = clusters(3, 5, 0, spread=3.0)
    suggested_N = labels_N.clone()
    suggested_N[(labels_N == 0).nonzero().flatten()[:3]] = 2
    pairs_PS, overlap_P = overlaps(v_NF, labels_N, 3, suggested_N=suggested_N)
    assert dict(zip(map(tuple, pairs_PS.tolist()), overlap_P.tolist(), strict=True))[0, 1] == 0


def test_few_classes_or_samples_have_no_overlap() -> None:
    v_NF = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    for labels in ([0] * 6, [0, 0, 0, 0, 1, 1]):
        pairs_PS, overlap_P = overlaps(v_NF, torch.tensor(labels), 2)
        assert (len(pairs_PS), len(overlap_P)) == (0, 0)

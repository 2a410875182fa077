"""Table 3: the published procedure, one pair and one sample at a time, against the ranking of all pairs together."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eif_engine.cases import Case
from eif_engine.types import Pair
from tests.benchmarks.paper.data import Split
from tests.benchmarks.paper.models import Model
from tests.benchmarks.paper.network import Size
from tests.benchmarks.paper.rankings import GRADIENTS, IF, IF_EKFAC, PUBLISHED, UNIT, closest_pairs, scores

STEPS = 50
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Timed:
    """Seconds of processor time for some pairs together: what else runs on the machine does not count."""

    name: str
    pairs: int
    seconds: float

    @property
    def per_pair(self) -> float:
        """Seconds of one."""
        return self.seconds / self.pairs


def timings(model: Model, split: Split, size: Size) -> list[Timed]:
    """Each procedure on one model, on one thread; one pair by the engine before them warms up."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _timings(model, split, size)
    finally:
        torch.set_num_threads(threads)


def _timings(model: Model, split: Split, size: Size) -> list[Timed]:
    case, queries = model.case, closest_pairs(model.case, None)
    pair = queries[0].pairs[0]
    backbone = model.backbone(size, tuple(split.train_NCHW.shape[1:]))
    scores(case, queries[:1], PUBLISHED)
    found = [
        _timed("published procedure: the whole network twice", 1, lambda: one_pair(case, pair, split, backbone)),
        _timed("published procedure, head alone, features cached", 1, lambda: one_pair(case, pair, None, None)),
    ]
    for method, count in ((IF, 5), (IF_EKFAC, None), (PUBLISHED, None), (UNIT, None), (GRADIENTS, None)):
        some = queries[:count]
        found.append(_timed(method, len(some), partial(scores, case, some, method)))
    return found


def one_pair(case: Case, pair: Pair, split: Split | None, backbone: nn.Module | None) -> NDArray[np.float64]:
    """Scores (N,): ascent of the head weight, and the loss of every sample at both ends of the way, one by one.

    Args:
        case: The model.
        pair: The confusion.
        split: Images, where the backbone is run for every loss; else features are read.
        backbone: The network below the head.
    """
    head = nn.Linear(case.head.weight_DF.shape[1], case.head.weight_DF.shape[0])
    head.load_state_dict({"weight": case.head.weight_DF.float(), "bias": case.head.bias_D.float()})
    train = case.train_features_NF.float() if split is None else split.train_NCHW
    below = nn.Identity() if backbone is None else backbone
    loss = case.loss.to(device="cpu", dtype=torch.float32)
    rows_RF = case.test_features_MF[[pair.row, pair.neighbor]].float()

    @torch.no_grad()
    def losses() -> NDArray[np.float64]:
        labels_N = case.train_labels_N
        one_by_one = (loss.per_sample(head(below(train[n : n + 1])), labels_N[n : n + 1]) for n in range(len(train)))
        return np.array([float(value) for value in one_by_one])

    before = losses()
    start = float(pair_distance(head, rows_RF).detach())
    for _ in range(STEPS):
        (slope_DF,) = torch.autograd.grad(pair_distance(head, rows_RF), [head.weight])
        with torch.no_grad():
            head.weight += LEARNING_RATE * slope_DF
        change = float(pair_distance(head, rows_RF).detach()) - start
        if abs(change) >= 1:
            break
    return change * (losses() - before)


def pair_distance(head: nn.Module, rows_RF: Tensor) -> Tensor:
    """Squared distance of two rows after the head."""
    first_D, second_D = nn.functional.normalize(head(rows_RF), dim=1)
    distance: Tensor = (first_D - second_D).square().sum()
    return distance


def _timed(name: str, pairs: int, run: Callable[[], object]) -> Timed:
    started = time.process_time()
    run()
    return Timed(name, pairs, time.process_time() - started)

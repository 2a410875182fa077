"""Everything that is measured on one data set, before it is written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.paper.data import Split
from tests.benchmarks.paper.detection import Curve, curves
from tests.benchmarks.paper.detectors import Detected, own_verdicts
from tests.benchmarks.paper.flips import Noise
from tests.benchmarks.paper.models import SHARES, Condition, Model, conditions, model
from tests.benchmarks.paper.network import Size
from tests.benchmarks.paper.peers import PeersFailed, run_peers
from tests.benchmarks.paper.proof import Gain, head_gains, network_gains
from tests.benchmarks.paper.rankings import recall
from tests.benchmarks.paper.runtime import Timed, timings

Say = Callable[[str], None]
Train = Callable[[Condition], Model]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much is measured.

    Attributes:
        seeds: Models of each kind.
        pairs: Confusion pairs of each model that are retrained for, the closest.
        groups: Confusion groups of each model, the largest.
        network_pairs: Pairs of the first models that the whole network is retrained for.
        shares: Shares of labels that are flipped.
    """

    seeds: int = 3
    pairs: int = 10
    groups: int = 5
    network_pairs: int = 3
    shares: tuple[float, ...] = SHARES


@dataclass(kw_only=True)
class Results:
    """What was measured on one data set.

    Attributes:
        name: Of the data.
        train: Training samples.
        test: Test samples.
        recalls: Recall@1 by model.
        gains: Table 1.
        curves: Figure 2, by kind of flips, a list a model.
        detected: Table 2 and the peers.
        no_peers: Why there are none, or empty.
        timed: Table 3.
    """

    name: str
    train: int
    test: int
    recalls: dict[str, float] = field(default_factory=dict)
    gains: list[Gain] = field(default_factory=list)
    curves: dict[str, list[list[Curve]]] = field(default_factory=dict)
    detected: list[Detected] = field(default_factory=list)
    no_peers: str = ""
    timed: list[Timed] = field(default_factory=list)


def measure(results: Results, train: Train, budget: Budget, *, cache: Path, peers: Path | None, say: Say) -> Results:
    """Everything that needs cached features only."""
    models = []
    for condition in conditions(budget.seeds, budget.shares):
        models.append(train(condition))
        results.recalls[condition.name] = recall(models[-1].case)
        say(f"model {condition.name}: recall@1 {results.recalls[condition.name]:.3f}")
    for clean in (each for each in models if not each.condition.share):
        say(f"retrain the head of {clean.condition.name}")
        results.gains += head_gains(clean, pairs=budget.pairs, groups=budget.groups, cache=cache)
    noisy = [each for each in models if each.condition.share]
    most = [each for each in noisy if each.condition.share == max(budget.shares)]
    for noise in Noise:
        say(f"detection curves, {noise} flips")
        results.curves[noise] = [curves(each) for each in most if each.condition.noise is noise]
    for each in noisy:
        say(f"wrong labels of {each.condition.name}")
        results.detected += own_verdicts(each, cache)
    _peers(results, most, cache=cache, peers=peers, say=say)
    return results


def measure_images(results: Results, split: Split, size: Size, budget: Budget, *, cache: Path, say: Say) -> None:
    """What needs the images: the whole network, and the published procedure's own passes."""
    for condition in conditions(1, ())[: 2 if budget.network_pairs else 0]:
        say(f"retrain the whole network of {condition.name}")
        found = model(split, condition, size=size, cache=cache)
        results.gains += network_gains(found, split, pairs=budget.network_pairs, size=size, cache=cache)
    say("time the published procedure")
    results.timed = timings(model(split, conditions(1, ())[0], size=size, cache=cache), split, size)


def _peers(results: Results, models: Sequence[Model], *, cache: Path, peers: Path | None, say: Say) -> None:
    if peers is None or not peers.exists():
        results.no_peers = "their environment is absent (`make paper` makes it)"
        return
    say("peers")
    try:
        results.detected += run_peers(peers, models, cache=cache)
    except PeersFailed as error:
        results.no_peers = str(error)

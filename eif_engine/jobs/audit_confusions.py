"""Confusions of the test set, by pair, class and pair of classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Columns, Screened
from eif_engine.functional.retrieval import Retrieval
from eif_engine.jobs.audit_data import Samples
from eif_engine.jobs.audit_screen import wrong_probability
from eif_engine.jobs.queries import group_by_class
from eif_engine.types import Pair, Query


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """A test sample and its nearest other, of another label.

    Attributes:
        pair: The two.
        suspect: The one of them whose label is more likely wrong; -1 where nothing speaks against either.
        probability: That it is.
        set_aside: Whether the confusion blames no training sample.
    """

    pair: Pair
    suspect: int
    probability: float
    set_aside: bool


def find_confusions(found: Retrieval, test: Samples, screened: Screened | None, config: AuditConfig) -> list[Confusion]:
    """Every confusion, closest first, then by id."""
    wrong_M = wrong_probability(screened, len(test)).tolist()
    neighbors, distances = found.neighbor_M.tolist(), found.distance_M.tolist()
    pairs = [
        Pair(row=row, neighbor=neighbor, distance=distance)
        for row, (neighbor, distance) in enumerate(zip(neighbors, distances, strict=True))
        if test.labels[row] != test.labels[neighbor]
    ]
    confusions = []
    for pair in sorted(pairs, key=lambda pair: (pair.distance, test.ids[pair.row])):
        suspect = pair.row if wrong_M[pair.row] >= wrong_M[pair.neighbor] else pair.neighbor
        probability = wrong_M[suspect]
        aside = screened is not None and probability >= config.screen_above
        confusions.append(Confusion(pair=pair, suspect=suspect, probability=probability, set_aside=aside))
    return confusions


def confusion_groups(confusions: list[Confusion], test: Samples) -> list[Query]:
    """A query a class with confusions that are not set aside; the most first."""
    return group_by_class([each.pair for each in confusions if not each.set_aside], test.labels)


def confusions_table(confusions: list[Confusion], test: Samples, screened: Screened | None) -> Columns:
    """The table `confusions`."""
    suggested = [] if screened is None else screened.suggested_label_M.tolist()
    return {
        "sample_id": [test.ids[each.pair.row] for each in confusions],
        "neighbor_id": [test.ids[each.pair.neighbor] for each in confusions],
        "label": [test.labels[each.pair.row] for each in confusions],
        "neighbor_label": [test.labels[each.pair.neighbor] for each in confusions],
        "distance": [each.pair.distance for each in confusions],
        "set_aside": [each.set_aside for each in confusions],
        "suspect_id": [test.ids[each.suspect] if each.set_aside else "" for each in confusions],
        "suspect_probability": [each.probability for each in confusions],
        "suspect_suggested_label": [
            test.classes[suggested[each.suspect]] if each.set_aside else "" for each in confusions
        ],
    }


def classes_table(groups: list[Query], test: Samples, harmful: dict[str, int]) -> Columns:
    """The table `confusion_classes`.

    Args:
        groups: The confusions of each class.
        test: The test set.
        harmful: Training samples that make up half of the positive harm, by query id; 0 where not known.
    """
    samples = Counter(test.labels)
    labels = [test.labels[group.pairs[0].row] for group in groups]
    targets = [Counter(test.labels[pair.neighbor] for pair in group.pairs) for group in groups]
    tops = [min(found.items(), key=lambda item: (-item[1], item[0])) for found in targets]
    counts = [len(group.pairs) for group in groups]
    return {
        "label": labels,
        "query_id": [group.query_id for group in groups],
        "samples": [samples[label] for label in labels],
        "confusions": counts,
        "share": [count / samples[label] for label, count in zip(labels, counts, strict=True)],
        "top_label": [label for label, _ in tops],
        "top_count": [count for _, count in tops],
        "mean_distance": [_mean_distance(group.pairs) for group in groups],
        "harmful_samples": [harmful.get(group.query_id, 0) for group in groups],
    }


def class_pairs_table(groups: list[Query], test: Samples) -> Columns:
    """The table `class_pairs`."""
    members: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for group in groups:
        for pair in group.pairs:
            first, second = sorted((test.labels[pair.row], test.labels[pair.neighbor]))
            members[first, second].append(pair)
    order = sorted(members, key=lambda pair: (-len(members[pair]), pair))
    return {
        "label": [first for first, _ in order],
        "neighbor_label": [second for _, second in order],
        "confusions": [len(members[pair]) for pair in order],
        "mean_distance": [_mean_distance(members[pair]) for pair in order],
    }


def pairs_tables(groups: list[Query], test: Samples) -> dict[str, Columns]:
    """The table `pairs` by query id."""
    return {
        group.query_id: {
            "kind": [group.kind.value] * len(group.pairs),
            "sample_id": [test.ids[pair.row] for pair in group.pairs],
            "neighbor_id": [test.ids[pair.neighbor] for pair in group.pairs],
            "label": [test.labels[pair.row] for pair in group.pairs],
            "neighbor_label": [test.labels[pair.neighbor] for pair in group.pairs],
            "distance": [pair.distance for pair in group.pairs],
        }
        for group in groups
    }


def _mean_distance(pairs: list[Pair] | tuple[Pair, ...]) -> float:
    return sum(pair.distance for pair in pairs) / len(pairs)

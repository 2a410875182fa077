"""Samples that are the same or nearly so: within the training set, within the test set, and across (leaks)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_types import Columns
from eif_engine.functional.duplicates import equal_pairs, groups_of, near_pairs, nearer_than
from eif_engine.functional.outliers import typical_distance
from eif_engine.jobs.audit_data import AuditData, Samples
from eif_engine.jobs.audit_neighbors import Neighbors


@dataclass(frozen=True, kw_only=True)
class Member:
    """A sample of a group of duplicates.

    Attributes:
        sample_id: Its id.
        split: `train` or `test`.
        label: Its label.
        similarity: Cosine to the first of the group.
        exact: Whether it has the same bytes as the first; of the first, whether any other has.
        repeats: Whether it has the same bytes as an earlier one.
    """

    sample_id: str
    split: str
    label: str
    similarity: float
    exact: bool
    repeats: bool


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """Duplicates, training samples first, then by id."""

    members: tuple[Member, ...]

    @property
    def label_conflict(self) -> bool:
        """Whether it has more than one label."""
        return len({member.label for member in self.members}) > 1

    @property
    def leak(self) -> bool:
        """Whether it spans train and test."""
        return len({member.split for member in self.members}) > 1


def find_duplicates(data: AuditData, near: Neighbors, config: AuditConfig) -> list[DuplicateGroup]:
    """Every group: leaks first, then label conflicts, then the others; in each by the id of the first."""
    N, M, k = len(data.train), len(data.test), config.outlier_neighbors
    most = nearer_than(config.near_duplicate, typical_distance(near.train.nearest(k).distance_QK))
    train_N, test_M = (torch.arange(count, device=near.across_M.device) for count in (N, M))
    pairs = equal_pairs([*data.train.split.digests, *data.test.split.digests])
    pairs += near_pairs(train_N, near.train.neighbor_QK, near.train.distance_QK, most)
    pairs += near_pairs(test_M + N, near.test.neighbor_QK + N, near.test.distance_QK, most)
    pairs += near_pairs(test_M + N, near.across_M[:, None], near.across_distance_M[:, None], most)
    found = [_group(rows, data) for rows in groups_of(pairs)]
    return sorted(found, key=lambda group: (not group.leak, not group.label_conflict, group.members[0].sample_id))


def duplicates_table(groups: list[DuplicateGroup]) -> Columns:
    """The table `duplicates`."""
    rows = [(number, group, member) for number, group in enumerate(groups, start=1) for member in group.members]
    return {
        "group": [number for number, _, _ in rows],
        "sample_id": [member.sample_id for _, _, member in rows],
        "split": [member.split for _, _, member in rows],
        "label": [member.label for _, _, member in rows],
        "similarity": [member.similarity for _, _, member in rows],
        "exact": [member.exact for _, _, member in rows],
        "label_conflict": [group.label_conflict for _, group, _ in rows],
        "leak": [group.leak for _, group, _ in rows],
    }


def duplicate_figures(groups: list[DuplicateGroup]) -> dict[str, float]:
    """The figures about duplicates."""
    exact = sum(member.repeats for group in groups for member in group.members)
    later = sum(len(group.members) - 1 for group in groups)
    return {
        "exact_duplicates": float(exact),
        "near_duplicates": float(later - exact),
        "label_conflicts": float(sum(group.label_conflict for group in groups)),
        "leaks": float(sum(group.leak for group in groups)),
    }


def _group(rows: list[int], data: AuditData) -> DuplicateGroup:
    found = [(*_at(data, row), row) for row in rows]
    ordered = [row for *_, row in sorted(found, key=lambda each: (each[0] is data.test, each[0].ids[each[1]]))]
    first, first_row = _at(data, ordered[0])
    anchor_F, seen = first.features_NF[first_row].double(), set[bytes]()
    digests = [samples.split.digests[place] for samples, place in (_at(data, row) for row in ordered)]
    exact = [digest is not None and digest == digests[0] for digest in digests]
    exact[0] = any(exact[1:])
    members = []
    for row, digest, same in zip(ordered, digests, exact, strict=True):
        samples, place = _at(data, row)
        members.append(
            Member(
                sample_id=samples.ids[place],
                split=samples.name,
                label=samples.labels[place],
                similarity=1.0 if same else _cosine(samples.features_NF[place].double(), anchor_F),
                exact=same,
                repeats=digest in seen,
            )
        )
        if digest is not None:
            seen.add(digest)
    return DuplicateGroup(members=tuple(members))


def _at(data: AuditData, row: int) -> tuple[Samples, int]:
    """The split of a row of train and test together, and its row there."""
    return (data.train, row) if row < len(data.train) else (data.test, row - len(data.train))


def _cosine(a_F: torch.Tensor, b_F: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a_F, b_F, dim=0).clamp(-1, 1))

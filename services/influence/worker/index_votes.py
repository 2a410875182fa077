"""Suggestions from the neighbours that an index of the embedding service gives; labels are those of the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eif_engine.config import VoteRule
from eif_engine.functional.relabel import median_shots
from eif_engine.jobs.relabel import NeighborVote, Suggestion, decide, rank_suggestions
from eif_engine.types import Progress, Quarantined
from services.common.errors import ServiceError
from services.influence.worker.index_neighbors import IndexNeighbors
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.split import Split


@dataclass(frozen=True, kw_only=True)
class IndexVotes:
    """What an index gave.

    Attributes:
        suggestions: In their order.
        num_neighbors: Neighbours asked for.
        ignored: Neighbours that the manifest does not have, and that did not vote.
    """

    suggestions: list[Suggestion]
    num_neighbors: int
    ignored: int


def index_votes(
    index: IndexNeighbors,
    train: Split,
    wanted: Sequence[str],
    *,
    num_neighbors: int | None,
    rule: VoteRule,
    quarantine: Quarantine,
    report: Progress,
) -> IndexVotes:
    """Suggestions for samples of the manifest by their neighbours in an index.

    A sample that the index does not have, because its image could not be read when it was built, is put aside.

    Raises:
        EifError: Those of `IndexNeighbors.search`, and TOO_MANY_QUARANTINED.
    """
    batch, most = index.limits()
    count = num_neighbors or min(median_shots(train.labels), most or 1)
    label_of = dict(zip(train.sample_ids, train.labels, strict=True))
    search = _Search(index, train, quarantine, count)
    found: list[Suggestion] = []
    ignored = 0
    for start in range(0, len(wanted), batch):
        for sample_id, neighbors in search.run(list(wanted[start : start + batch])):
            known = [replace(each, label=label_of[each.sample_id]) for each in neighbors if each.sample_id in label_of]
            ignored += len(neighbors) - len(known)
            found.append(decide(sample_id, label_of[sample_id], known, rule))
        report(min(start + batch, len(wanted)), len(wanted))
    return IndexVotes(suggestions=rank_suggestions(found), num_neighbors=count, ignored=ignored)


class _Search:
    def __init__(self, index: IndexNeighbors, train: Split, quarantine: Quarantine, count: int) -> None:
        self._index, self._train, self._quarantine, self._count = index, train, quarantine, count
        self._row_of = {sample_id: row for row, sample_id in enumerate(train.sample_ids)}

    def run(self, sample_ids: list[str]) -> list[tuple[str, list[NeighborVote]]]:
        """One batch. The index names one sample that it does not have at a time."""
        while sample_ids:
            try:
                answers = self._index.search(sample_ids, self._count)
                return list(zip(sample_ids, answers, strict=True))
            except ServiceError as error:
                unknown = error.metadata.get("sample_id")
                if error.reason != "SAMPLE_UNKNOWN" or unknown not in sample_ids:
                    raise
                sample_ids = [each for each in sample_ids if each != unknown]
                self._put_aside(unknown, error)
        return []

    def _put_aside(self, sample_id: str, error: ServiceError) -> None:
        uri = self._train.sample(self._row_of[sample_id]).uri
        entry = Quarantined(sample_id=sample_id, uri=uri, reason=error.reason, message=error.message)
        self._quarantine.add("train", entry, total=len(self._train))

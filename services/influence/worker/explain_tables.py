"""The tables `explanations` and `parts` of an explain job, a pair at a time."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from eif_engine.jobs.explain import Explanation, links
from eif_engine.types import Sample
from services.influence.worker.table_file import TableFile

LEAST_SHARE = 1e-6
"""Pairs of parts below this share of the sum are left out."""


class ExplainTables:
    """Both tables, open.

    Args:
        folder: Where they are written.
    """

    def __init__(self, folder: Path) -> None:
        self._explanations = TableFile("explanations", folder)
        self._parts = TableFile("parts", folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for table in self.files:
            table.__exit__(kind, error, trace)

    @property
    def files(self) -> list[TableFile]:
        """Both tables."""
        return [self._explanations, self._parts]

    def write(self, explanation: Explanation, sample: Sample, neighbor: Sample, picture: str) -> None:
        """Append a pair."""
        self._explanations.write(
            {
                "sample_id": [sample.sample_id],
                "neighbor_id": [neighbor.sample_id],
                "label": [sample.label],
                "neighbor_label": [neighbor.label],
                "similarity": [explanation.similarity],
                "matched_similarity": [explanation.matched_similarity],
                "rows": [explanation.rows],
                "columns": [explanation.columns],
                "picture": [picture],
                "group_shares": [list(explanation.group_shares)],
            }
        )
        found = links(explanation, least_share=LEAST_SHARE)
        self._parts.write(
            {
                "sample_id": [sample.sample_id] * len(found),
                "neighbor_id": [neighbor.sample_id] * len(found),
                "part": [link.part for link in found],
                "neighbor_part": [link.neighbor_part for link in found],
                "flow": [link.flow for link in found],
                "similarity": [link.similarity for link in found],
                "contribution": [link.contribution for link in found],
            }
        )

"""Samples and labels that a page speaks of, each written once and referred to by number."""

from __future__ import annotations

from services.influence.worker.report.source import SampleKey

NOBODY = -1
"""In place of a number where there is no sample or no label."""


class SampleBook:
    """Numbers samples and labels in the order in which they are first spoken of."""

    def __init__(self) -> None:
        self._places: dict[SampleKey, int] = {}
        self._labels: dict[str, int] = {}
        self._label_of: list[int] = []

    def __len__(self) -> int:
        return len(self._places)

    @property
    def keys(self) -> list[SampleKey]:
        """Of the samples, by number."""
        return list(self._places)

    @property
    def labels(self) -> list[str]:
        """By number."""
        return list(self._labels)

    def label(self, label: str) -> int:
        """Number of a label; NOBODY for an empty one."""
        return self._labels.setdefault(label, len(self._labels)) if label else NOBODY

    def sample(self, split: str, sample_id: str, label: str) -> int:
        """Number of a sample; NOBODY for an empty id."""
        if not sample_id:
            return NOBODY
        place = self._places.setdefault((split, sample_id), len(self._places))
        if place == len(self._label_of):
            self._label_of.append(self.label(label))
        elif self._label_of[place] == NOBODY:
            self._label_of[place] = self.label(label)
        return place

    def rows(self) -> list[list[str | int]]:
        """Each sample as its id, 1 where it is of the test split, and the number of its label."""
        return [
            [sample_id, int(split == "test"), label]
            for (split, sample_id), label in zip(self._places, self._label_of, strict=True)
        ]

"""What an audit takes and gives; columns, not rows, so that a million samples stay a few arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from eif_engine.losses.base import ProxyLoss
from eif_engine.models.head import Head

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]
"""A table by columns, named and typed as in `audit_tables.AUDIT_SCHEMAS`; all of one length."""

StageProgress = Callable[[str, int, int], None]
"""Called with (stage, units done, units in all)."""


def no_stage_progress(_stage: str, _done: int, _total: int) -> None:
    """Report nowhere."""


@dataclass(frozen=True, kw_only=True)
class AuditSplit:
    """Samples of a manifest that could be read.

    Attributes:
        sample_ids: Unique.
        labels: One a sample.
        features_NF: Penultimate features (float32); embeddings where there is no model.
        digests: sha256 of each image (32 bytes); None where not known.
        columns: Further columns of the manifest, by name, one text a sample.
    """

    sample_ids: list[str]
    labels: list[str]
    features_NF: Tensor
    digests: Sequence[bytes | None]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sample_ids)


@dataclass(frozen=True, kw_only=True)
class AuditModel:
    """What of a model an audit needs once features are there.

    Attributes:
        head: The last linear layer.
        loss: The loss it was trained with.
        classes: Labels in the order of the loss's classes; every training label is among them.
    """

    head: Head
    loss: ProxyLoss
    classes: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Screened:
    """What the screen says of test labels; it depends on the test set and the model alone.

    Attributes:
        issue_score_M: P(label is wrong), in [0, 1].
        suggested_label_M: The most probable class.
        suggested_probability_M: Its probability, in [0, 1].
        alternative_label_M: The most probable class other than that of the label.
        flag_above: Score from which a label counts as doubted.
    """

    issue_score_M: NDArray[np.float64]
    suggested_label_M: NDArray[np.int64]
    suggested_probability_M: NDArray[np.float64]
    alternative_label_M: NDArray[np.int64]
    flag_above: float

    @property
    def doubted_M(self) -> NDArray[np.bool_]:
        """Whether each label is doubted."""
        doubted_M: NDArray[np.bool_] = self.issue_score_M >= self.flag_above
        return doubted_M


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What an audit found.

    Attributes:
        tables: Every table of `AUDIT_SCHEMAS`; empty ones have empty columns.
        ranking: By query id (`all` first, then each confusion class), the columns rank, sample_id, label, score.
        pairs: By query id, the columns kind, sample_id, neighbor_id, label, neighbor_label, distance.
        figures: By the names of `audit_figures.FIGURES`; those that do not apply are absent.
        missing: What is left out and why, one sentence each, such as what needs a model.
        seconds: Time that each stage took.
        screened: What the screen says of the test labels, for the next audit of them; None where they are too few.
    """

    tables: Mapping[str, Columns]
    ranking: Mapping[str, Columns]
    pairs: Mapping[str, Columns]
    figures: Mapping[str, float]
    missing: Sequence[str]
    seconds: Mapping[str, float]
    screened: Screened | None

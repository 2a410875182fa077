"""Findings about training samples by the values of the columns of their manifest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eif_engine.audit_types import Columns
from eif_engine.jobs.audit_data import Samples
from eif_engine.jobs.harm import Harm, harm_by_value

Row = tuple[str, str, int, int, float, float, float]

_NAMES = ("column", "value", "samples", "flagged", "flagged_share", "harm_share", "harm_lift")


def rollups_table(train: Samples, flagged_N: NDArray[np.bool_], harm: Harm | None) -> Columns:
    """The table `rollups`: column by column in text order; without harm, the most flagged first."""
    rows = [
        row
        for column in sorted(train.split.columns)
        for row in sorted(_of_column(column, train.split.columns[column], flagged_N, harm), key=_order)
    ]
    return {name: [row[place] for row in rows] for place, name in enumerate(_NAMES)}


def _of_column(column: str, values_N: Sequence[str], flagged_N: NDArray[np.bool_], harm: Harm | None) -> list[Row]:
    names, codes_N, counts = np.unique(np.asarray(values_N, dtype=np.str_), return_inverse=True, return_counts=True)
    flagged = np.bincount(codes_N[flagged_N], minlength=len(names)).tolist()
    of_value = {} if harm is None else {one.value: one for one in harm_by_value(harm, values_N)}
    return [
        (
            column,
            name,
            samples,
            flagged[place],
            flagged[place] / samples,
            of_value[name].share if name in of_value else 0.0,
            of_value[name].lift if name in of_value else 0.0,
        )
        for place, (name, samples) in enumerate(zip(names.tolist(), counts.tolist(), strict=True))
    ]


def _order(row: Row) -> tuple[float, float, str]:
    _, value, _, _, flagged_share, harm_share, _ = row
    return -harm_share, -flagged_share, value

"""What commands read: a case file, and which of its confusions they are about."""

from __future__ import annotations

import argparse
from pathlib import Path

from eif_engine.cases import Case
from eif_engine.config import QueryKind
from eif_engine.errors import InvalidInput, LabelUnknown
from eif_engine.jobs.queries import confusions, group_by_class, pair_query, row_pairs
from eif_engine.types import Pair, Query


def add_files(parser: argparse.ArgumentParser, *, out: str) -> None:
    """Add the case and where to write."""
    parser.add_argument("case", type=Path, metavar="CASE.npz", help="arrays as eif_engine/cases.py lists them")
    parser.add_argument("--out", type=Path, required=True, metavar=out, help="where to write")


def add_queries(parser: argparse.ArgumentParser, *, pairs: str) -> None:
    """Add the choice of confusions, with the default of `--pairs`."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--pairs",
        default=pairs,
        help="`all` confusion pairs, the K closest, or `i,j;i,j` rows of test_features (default %(default)s)",
    )
    which.add_argument("--group", metavar="CLASS", help="the confusion pairs of this test label, as one group")


def select_queries(case: Case, args: argparse.Namespace) -> list[Query]:
    """The confusions that the options name. Raises InvalidInput, LabelUnknown."""
    if args.group is not None:
        return [group_query(case, args.group)]
    return [pair_query(pair, case.test_ids, QueryKind.CONFUSION_PAIRS) for pair in select_pairs(case, args.pairs)]


def select_pairs(case: Case, text: str) -> list[Pair]:
    """The pairs that `--pairs` names.

    Raises:
        InvalidInput: It is none of `all`, a number above 0, and `i,j;i,j` with rows of test_features.
    """
    if text == "all" or (text.isascii() and text.isdigit() and int(text) > 0):
        found = confusions(case.head.embed(case.test_features_MF), case.test_labels)
        return found if text == "all" else found[: int(text)]
    try:
        rows = [(int(first), int(second)) for first, second in (part.split(",") for part in text.strip(";").split(";"))]
    except ValueError:
        raise InvalidInput(f"--pairs {text!r} is none of `all`, a number above 0, and rows like `3,7;10,2`") from None
    count = len(case.test_features_MF)
    for row in (row for pair in rows for row in pair):
        if not 0 <= row < count:
            raise InvalidInput(f"--pairs names row {row}, but test_features has rows 0 to {count - 1}")
    return row_pairs(rows, case.head.embed(case.test_features_MF))


def group_query(case: Case, label: str) -> Query:
    """The confusion pairs of one class; only those with the classes that the file restricts its group to, if it does.

    Raises:
        LabelUnknown: No test sample has the label.
        InvalidInput: The class has no confusion pairs.
    """
    if label not in case.test_labels:
        raise LabelUnknown(f"--group {label!r}: no test sample has that label", label=label)
    partners = case.confused_with.get(label)
    pairs = [
        pair
        for pair in confusions(case.head.embed(case.test_features_MF), case.test_labels)
        if case.test_labels[pair.row] == label and (partners is None or case.test_labels[pair.neighbor] in partners)
    ]
    if not pairs:
        raise InvalidInput(f"--group {label!r}: the class has no confusion pairs", label=label)
    return group_by_class(pairs, case.test_labels)[0]

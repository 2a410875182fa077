"""`python -m eif_engine score`: influence, or a baseline, from a case file, with no service."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from eif_engine.cases import Case, load_case
from eif_engine.cli.output import write_arrays
from eif_engine.cli.score_options import add_options, influence_config, method_config, scope_pattern
from eif_engine.config import QueryKind
from eif_engine.errors import InvalidInput, LabelUnknown
from eif_engine.jobs.methods import rank_by
from eif_engine.jobs.queries import confusions, group_by_class, pair_query, row_pairs
from eif_engine.jobs.scope import rank_scope
from eif_engine.models.network import Network
from eif_engine.types import Pair, Query

BATCH_ROWS = 4096

EPILOG = """\
Writes `pairs` (rows of test_features) and `scores` (above 0 is harmful) to OUT.
With --pairs: pairs (Q,2), scores (Q,N). With --group: the pairs of the group (G,2) and its scores (1,N).

The published code takes plain steps and does not divide:  --steps 50 --lr 1e-3 --no-normalize
Its influence-function baseline:                           --method published_if  (ours is its negative)
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "score",
        help="influence of every training sample on confusions of a case file",
        description="Say of every training sample how much it is to blame for the confusions of a case file.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("case", type=Path, metavar="CASE.npz", help="arrays as eif_engine/cases.py lists them")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.npz", help="where to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--pairs",
        default="all",
        help="`all` confusion pairs (default), the K closest, or `i,j;i,j` rows of test_features",
    )
    which.add_argument("--group", metavar="CLASS", help="the confusion pairs of this test label, as one group")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score a case and write the result."""
    influence_config(args)  # wrong options are said before a large file is read
    method_config(args)
    case = load_case(args.case)
    if args.group is not None:
        queries = [group_query(case, args.group)]
    else:
        queries = [
            pair_query(pair, case.test_ids, QueryKind.CONFUSION_PAIRS) for pair in select_pairs(case, args.pairs)
        ]
    scores = collect(ranking(case, queries, args), queries=len(queries), samples=len(case.train_labels_N))
    rows = [(pair.row, pair.neighbor) for query in queries for pair in query.pairs]
    write_arrays(args.out, {"pairs": np.array(rows, dtype=np.int64).reshape(-1, 2), "scores": scores})
    print(f"{args.out}: {scores.shape[0]} x {scores.shape[1]} scores")
    return 0


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


def ranking(case: Case, queries: list[Query], args: argparse.Namespace) -> Iterator[tuple[Query, NDArray[np.float64]]]:
    """Scores of a case as the options ask for them, query by query.

    Raises:
        InvalidInput: The options contradict each other, are out of range, or do not fit the case.
    """
    config, pattern = influence_config(args), scope_pattern(args)
    if pattern is None:
        return rank_by(
            args.method,
            head=case.head,
            loss=case.loss,
            train_features_NF=case.train_features_NF,
            train_labels_N=case.train_labels_N,
            test_features_MF=case.test_features_MF,
            queries=queries,
            config=config,
            method_config=method_config(args),
        )
    return rank_scope(
        network=Network(nn.Identity(), case.head),
        pattern=pattern,
        loss=case.loss,
        train_batches=torch.split(case.train_features_NF, BATCH_ROWS),
        train_labels_N=case.train_labels_N,
        test_images=lambda rows: case.test_features_MF[list(rows)],
        queries=queries,
        config=config,
    )


def collect(ranked: Iterator[tuple[Query, NDArray[np.float64]]], *, queries: int, samples: int) -> NDArray[np.float64]:
    """Scores (Q, N), with a progress bar on a terminal."""
    scores = np.empty((queries, samples))
    console = Console(stderr=True)
    shown = track(ranked, "queries", total=queries, console=console, disable=not console.is_terminal)
    for row, (_, scores_N) in enumerate(shown):
        scores[row] = scores_N
    return scores

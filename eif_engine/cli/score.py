"""`python -m eif_engine score`: influence, or a baseline, from a case file, with no service."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import nn

from eif_engine.cases import Case, load_case
from eif_engine.cli.inputs import add_files, add_queries, select_queries
from eif_engine.cli.output import write_arrays
from eif_engine.cli.score_options import add_options, influence_config, method_config, scope_pattern
from eif_engine.jobs.methods import rank_by
from eif_engine.jobs.scope import rank_scope
from eif_engine.models.network import Network
from eif_engine.types import Query

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
    add_files(parser, out="OUT.npz")
    add_queries(parser, pairs="all")
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Score a case and write the result."""
    influence_config(args)  # wrong options are said before a large file is read
    method_config(args)
    case = load_case(args.case)
    queries = select_queries(case, args)
    scores = collect(ranking(case, queries, args), queries=len(queries), samples=len(case.train_labels_N))
    rows = [(pair.row, pair.neighbor) for query in queries for pair in query.pairs]
    write_arrays(args.out, {"pairs": np.array(rows, dtype=np.int64).reshape(-1, 2), "scores": scores})
    print(f"{args.out}: {scores.shape[0]} x {scores.shape[1]} scores")
    return 0


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

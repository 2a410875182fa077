"""`python -m eif_engine issues`: wrong labels of a case file and what they should be, with no service."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from eif_engine.cases import Case, load_case
from eif_engine.cli.inputs import add_files
from eif_engine.cli.output import write_arrays
from eif_engine.config import InfluenceConfig, QueryKind
from eif_engine.errors import InvalidInput
from eif_engine.issue_config import IssueConfig
from eif_engine.jobs.issues import IssueReport, find_issues
from eif_engine.jobs.queries import confusions, pair_query
from eif_engine.jobs.score import Scorer

EPILOG = """\
Writes to OUT, with one entry per training sample: issue_score (P that the given label is wrong), suggested_label and
suggested_probability (the given label where that is the most probable), alternative_label and alternative_probability
(the best other label), suggestion_neighbors (rows of the nearest neighbours that carry the suggested label, -1 where
there are fewer), part_* (every part of the evidence, higher is more doubtful); and estimated_noise (share of wrong
labels), canary_recall (share of planted flips with a score from flag_above on), flag_above.

Of labels only train_labels is read, and test_labels to find confusions.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "issues",
        help="training labels of a case file that look wrong, and suggestions",
        description="Training labels of a case file that look wrong, and what they should be.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = IssueConfig()
    add_files(parser, out="OUT.npz")
    parser.add_argument(
        "--neighbors",
        type=int,
        default=defaults.num_neighbors,
        metavar="K",
        help=f"neighbours that vote (default {defaults.num_neighbors})",
    )
    parser.add_argument(
        "--canaries",
        type=int,
        default=defaults.canary_copies,
        metavar="COPIES",
        help=f"copies of the labels with planted flips (default {defaults.canary_copies})",
    )
    parser.add_argument(
        "--influence-pairs",
        type=int,
        default=100,
        metavar="P",
        help="closest confusion pairs whose absolute influence is reported, 0 for none (default 100)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seeds folds and canaries (default 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Find the issues of a case and write them."""
    config = _config(args)
    case = load_case(args.case)
    z_ND = case.head.embed(case.train_features_NF)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("canaries", total=None)
        report = find_issues(
            features_NF=case.train_features_NF,
            embeddings_ND=z_ND,
            labels_N=case.train_labels_N,
            num_classes=case.loss.num_classes,
            loss_N=case.loss.per_sample(z_ND, case.train_labels_N),
            influence_N=_absolute_influence(case, args.influence_pairs),
            config=config,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_arrays(args.out, _arrays(report))
    flagged = int((report.issue_score_N >= report.flag_above).sum())
    print(
        f"{args.out}: {flagged} of {len(report.issue_score_N)} labels look wrong (score from {report.flag_above}); "
        f"estimated share of wrong labels {report.estimated_noise:.3f}, planted flips found {report.canary_recall:.3f}"
    )
    return 0


def _config(args: argparse.Namespace) -> IssueConfig:
    if args.influence_pairs < 0:
        raise InvalidInput(f"--influence-pairs must be 0 or more, got {args.influence_pairs}")
    try:
        return IssueConfig(num_neighbors=args.neighbors, canary_copies=args.canaries, seed=args.seed)
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def _absolute_influence(case: Case, pairs: int) -> Tensor | None:
    """Absolute influence (N,) of every training sample, summed over the closest confusion pairs."""
    if pairs == 0:
        return None
    found = confusions(case.head.embed(case.test_features_MF), case.test_labels)[:pairs]
    scorer = Scorer(
        head=case.head,
        loss=case.loss,
        train_features=case.train_features_NF,
        train_labels_N=case.train_labels_N,
        config=InfluenceConfig(),
    )
    total_N = torch.zeros(len(case.train_features_NF), dtype=torch.float64)
    queries = [pair_query(pair, case.test_ids, QueryKind.CONFUSION_PAIRS) for pair in found]
    for chunk in scorer.chunks(queries, case.test_features_MF):
        total_N += chunk.scores_QN.abs().sum(0)
    return total_N


def _arrays(report: IssueReport) -> dict[str, NDArray[Any]]:
    return {
        "issue_score": report.issue_score_N,
        "suggested_label": report.suggested_label_N,
        "suggested_probability": report.suggested_probability_N,
        "alternative_label": report.alternative_label_N,
        "alternative_probability": report.alternative_probability_N,
        "suggestion_neighbors": report.neighbor_rows_NK,
        **{f"part_{name}": part_N for name, part_N in report.parts.items()},
        "estimated_noise": np.array(report.estimated_noise),
        "canary_recall": np.array(report.canary_recall),
        "flag_above": np.array(report.flag_above),
    }

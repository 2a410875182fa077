"""`python -m eif_engine harm`: who does damage over all confusions of a case file, with no service."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from eif_engine.cases import Case, load_case
from eif_engine.cli.inputs import add_files
from eif_engine.cli.output import write_arrays
from eif_engine.cli.score_options import add_steps, influence_config
from eif_engine.config import QueryKind
from eif_engine.errors import InvalidInput
from eif_engine.jobs.harm import Harm, HarmConfig, HarmOfValue, HarmSum, harm_by_value
from eif_engine.jobs.queries import confusions, pair_query
from eif_engine.jobs.score import Scorer
from eif_engine.method_config import Method

EPILOG = """\
Writes to OUT, with one entry per training sample: order (rows, the most harmful first), rank, rank_low and rank_high
(90 % of bootstrap resamples of the confusions lie between them: samples whose intervals overlap are not told apart),
signed, absolute and positive (sums of its influence over all confusions, of their absolute values, of those above 0).
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "harm",
        help="training samples of a case file that harm most over all confusions, and where they come from",
        description="Sum influence over all confusions of a case file: by sample, with rank intervals, and by column.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_files(parser, out="OUT.npz")
    parser.add_argument("--top", type=int, default=10, metavar="K", help="rows of the printed tables (default 10)")
    parser.add_argument(
        "--columns",
        type=Path,
        metavar="FILE.csv",
        help="a table: a header, then a row for each training sample",
    )
    parser.add_argument("--by", default="label", metavar="COLUMN", help="`label` (default) or a column of --columns")
    parser.add_argument(
        "--replicates", type=int, default=100, metavar="B", help="bootstrap resamples of the confusions (default 100)"
    )
    add_steps(parser.add_argument_group("how far eif moves the model"))
    parser.set_defaults(run=run, method=Method.EIF, damping=None, scope="head")


def run(args: argparse.Namespace) -> int:
    """Sum up the harm of a case and write it."""
    config = influence_config(args)
    try:
        summing = HarmConfig(replicates=args.replicates, seed=config.seed)
    except ValueError as error:
        raise InvalidInput(f"--replicates: {error}") from error
    case = load_case(args.case)
    values_N = column(args.columns, args.by, case)
    queries = [
        pair_query(pair, case.test_ids, QueryKind.CONFUSION_PAIRS)
        for pair in confusions(case.head.embed(case.test_features_MF), case.test_labels)
    ]
    scorer = Scorer(
        head=case.head,
        loss=case.loss,
        train_features=case.train_features_NF,
        train_labels_N=case.train_labels_N,
        config=config,
    )
    total = HarmSum([f"{row:09d}" for row in range(len(case.train_labels_N))], summing)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("queries", total=len(queries))
        for chunk in scorer.chunks(
            queries, case.test_features_MF, progress=lambda done, _: bar.update(task, completed=done)
        ):
            total.add(chunk.scores_QN)
    harm = total.harm()
    _write(args.out, harm)
    out = Console()
    out.print(_samples(harm, values_N, args.by, args.top), _values(harm_by_value(harm, values_N), args.by, args.top))
    out.print(f"{args.out}: {len(harm.rank_N)} samples over {harm.queries} confusions", highlight=False, soft_wrap=True)
    return 0


def column(path: Path | None, name: str, case: Case) -> list[str]:
    """The value of each training sample.

    Raises:
        InvalidInput: There is no such column, or it has not one row per training sample.
    """
    labels = [str(label) for label in case.train_labels_N.tolist()]
    if path is None:
        if name != "label":
            raise InvalidInput(f"--by {name!r} is a column of --columns FILE.csv, which is not given", field="by")
        return labels
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path}: cannot be read as a CSV table: {error}", uri=str(path)) from error
    if len(rows) != len(labels):
        raise InvalidInput(
            f"{path}: has {len(rows)} rows, but the case has {len(labels)} training samples", uri=str(path)
        )
    if rows and name not in rows[0]:
        raise InvalidInput(
            f"{path}: has no column {name!r}; it has {', '.join(str(key) for key in rows[0])}",
            uri=str(path),
            field="by",
        )
    return [row[name] or "" for row in rows]


def _samples(harm: Harm, values_N: Sequence[str], by: str, top: int) -> Table:
    table = Table("rank", "row", by, "harm", "interval of its rank", title="Samples that harm most")
    table.caption = "harm: its influence summed over all confusions; below 0, its help outweighs it"
    for row in harm.order_N[:top].tolist():
        interval = f"{harm.rank_low_N[row]} to {harm.rank_high_N[row]}"
        table.add_row(str(harm.rank_N[row]), str(row), values_N[row], f"{harm.signed_N[row]:.4g}", interval)
    return table


def _values(found: Sequence[HarmOfValue], by: str, top: int) -> Table:
    table = Table(by, "samples", "harm", "share of all harm", "lift", title=f"Where harm comes from, by {by}")
    for one in found[:top]:
        table.add_row(one.value, str(one.samples), f"{one.positive:.4g}", f"{one.share:.1%}", f"{one.lift:.2f}")
    return table


def _write(path: Path, harm: Harm) -> None:
    write_arrays(
        path,
        {
            "order": harm.order_N,
            "rank": harm.rank_N,
            "rank_low": harm.rank_low_N,
            "rank_high": harm.rank_high_N,
            "signed": harm.signed_N,
            "absolute": harm.absolute_N,
            "positive": harm.positive_N,
            "queries": np.array(harm.queries),
        },
    )

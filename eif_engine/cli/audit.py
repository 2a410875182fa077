"""`python -m eif_engine audit`: an audit of a case file as Parquet tables and figures, with no service."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from eif_engine.audit_config import AuditConfig
from eif_engine.audit_figures import FIGURES
from eif_engine.audit_types import Audit, StageProgress
from eif_engine.cases import load_case
from eif_engine.cli.audit_files import audit_inputs, read_columns, write_tables
from eif_engine.cli.output import write_text
from eif_engine.cli.score_options import add_steps, influence_config
from eif_engine.errors import InvalidInput
from eif_engine.issue_config import IssueConfig
from eif_engine.jobs.audit import AUDIT_STAGES, run_audit
from eif_engine.method_config import Method

EPILOG = """\
Writes to FOLDER every table of an audit as NAME.parquet (columns as eif_engine/audit_tables.py lists them), `ranking`
and `pairs` too, and figures.json with the figures (eif_engine/audit_figures.py), what is missing and why, and the
seconds of each stage. The same case and seed give the same tables.

With --embeddings the head is applied first and then forgotten: an audit of embeddings alone.
"""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser(
        "audit",
        help="everything about a case file: confusions and their causes, labels, classes, duplicates, proof",
        description="Audit a case file: what its model confuses, which samples cause it, which labels look wrong.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = AuditConfig()
    parser.add_argument("case", type=Path, metavar="CASE.npz", help="arrays as eif_engine/cases.py lists them")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--columns", type=Path, metavar="FILE.csv", help="columns to roll up by: a header, a row a training sample"
    )
    parser.add_argument("--embeddings", action="store_true", help="leave the model out")
    parser.add_argument(
        "--top-k",
        type=int,
        default=defaults.top_k,
        metavar="K",
        help=f"training samples kept from each end of a ranking (default {defaults.top_k})",
    )
    parser.add_argument(
        "--proofs",
        type=int,
        default=defaults.proofs,
        metavar="P",
        help=f"confusion classes to retrain for, 0 for no proof (default {defaults.proofs})",
    )
    add_steps(parser.add_argument_group("how far eif moves the model"))
    parser.set_defaults(run=run, method=Method.EIF, damping=None, scope="head")


def run(args: argparse.Namespace) -> int:
    """Audit a case and write what was found."""
    config = _config(args)
    case = load_case(args.case)
    columns = read_columns(args.columns, len(case.train_labels_N)) if args.columns else {}
    train, test, model = audit_inputs(case, columns, embeddings=args.embeddings)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        audit = run_audit(train=train, test=test, model=model, config=config, progress=_on(bar))
    write_tables(args.out, audit)
    facts = {"figures": dict(audit.figures), "missing": list(audit.missing), "seconds": dict(audit.seconds)}
    write_text(args.out / "figures.json", json.dumps(facts, indent=2) + "\n")
    out = Console()
    out.print(_summary(audit))
    for sentence in audit.missing:
        out.print(f"missing: {sentence}", highlight=False, soft_wrap=True)
    out.print(f"{args.out}: {len(audit.tables) + 2} tables and figures.json", highlight=False, soft_wrap=True)
    return 0


def _config(args: argparse.Namespace) -> AuditConfig:
    influence = influence_config(args)
    try:
        return AuditConfig(
            influence=influence,
            top_k=args.top_k,
            proofs=args.proofs,
            issues=IssueConfig(seed=influence.seed),
            seed=influence.seed,
        )
    except ValueError as error:
        raise InvalidInput(str(error)) from error


def _on(bar: Progress) -> StageProgress:
    tasks = {stage: bar.add_task(stage, total=None, visible=False) for stage in AUDIT_STAGES}

    def report(stage: str, done: int, total: int) -> None:
        bar.update(tasks[stage], completed=done, total=total, visible=True)

    return report


def _summary(audit: Audit) -> Table:
    table = Table("figure", "value", "what it is", title="Audit")
    for name, value in audit.figures.items():
        table.add_row(name, f"{value:.6g}", FIGURES.get(name, ""))
    return table

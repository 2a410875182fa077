"""`python -m eif_engine check`: what is wrong with a model bundle."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

STYLES = {"ERROR": "bold red", "WARNING": "yellow", "OK": "green"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "check",
        help="say what is wrong with a model bundle",
        description="Check a model bundle: schema, files, digests, keys, shapes, values, loss, preprocessing.",
        epilog="Exit codes: 0 the bundle can be used (there may be warnings), 1 it cannot.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder with model.json")
    parser.add_argument("--json", action="store_true", help="print findings as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check and print."""
    from eif_engine.models.check import check_bundle
    from eif_engine.models.findings import is_usable

    findings = check_bundle(args.folder)
    console = Console(highlight=False)
    if args.json:
        lines = [asdict(finding) for finding in findings]
        console.out(json.dumps({"usable": is_usable(findings), "findings": lines}, indent=2), highlight=False)
        return 0 if is_usable(findings) else 1
    table = Table("", "code", "finding", title=escape(str(args.folder)), title_justify="left")
    for finding in findings:
        table.add_row(f"[{STYLES[finding.level]}]{finding.level}[/]", finding.code, escape(finding.message))
    console.print(table)
    warnings = sum(finding.level == "WARNING" for finding in findings)
    errors = sum(finding.level == "ERROR" for finding in findings)
    console.print(f"{'usable' if not errors else 'not usable'}: {errors} error(s), {warnings} warning(s)")
    return 0 if is_usable(findings) else 1

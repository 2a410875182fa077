"""`python -m eif_engine`: the engine with no service."""

from __future__ import annotations

import argparse
import sys

from eif_engine import __version__
from eif_engine.cli import audit, check, explain, export_onnx, harm, issues, prove, score
from eif_engine.errors import EifError


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m eif_engine",
        description="Empirical influence functions for embedding models, from files, with no service.",
        epilog="Exit codes: 0 done, 1 the input is wrong (the message says what), 2 the command line is wrong.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (score, harm, issues, audit, prove, explain, check, export_onnx):
        command.add_parser(commands)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        exit_code: int = args.run(args)
    except EifError as error:
        print(f"error: {error.reason}: {error.message}", file=sys.stderr)
        return 1
    return exit_code


if __name__ == "__main__":
    sys.exit(main())

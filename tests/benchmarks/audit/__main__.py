"""Audits in the engine, measured: `python -m tests.benchmarks.audit --out docs/results`; writes audit-engine.json.

Each section runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.audit.sections import SECTIONS


def main() -> int:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of audit-engine.json")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder of the case")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="one section; may be given several times")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.section:
        print(json.dumps(SECTIONS[args.section](args.shared)))
        return 0
    path = args.out / "audit-engine.json"
    results = json.loads(path.read_text()) if args.only and path.exists() else {}
    for name in args.only or SECTIONS:
        print(f"==> {name}: {(SECTIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
        command = [sys.executable, "-m", "tests.benchmarks.audit", "--section", name, "--shared", str(args.shared)]
        ran = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        results[name] = json.loads(ran.stdout.splitlines()[-1])
        for figure, value in results[name].items():
            print(f"    {figure:34} {value:,.6g}")
        path.write_text(json.dumps(results, indent=2) + "\n")
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

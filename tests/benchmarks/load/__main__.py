"""The influence service under load, driven from other processes: `make load`.

Each section starts a server process of its own (jobs follow a script: tests/job_program.py), drives it, and prints what
it measured. Everything goes into load.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks.load.sections import SECTIONS


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of load.json")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="one section; may be given several times")
    options = parser.parse_args()
    path = options.out / "load.json"
    results: dict[str, Any] = json.loads(path.read_text()) if options.only and path.exists() else {}
    results["machine"] = {"date": datetime.now(UTC).date().isoformat(), "python": platform.python_version()}
    for name in options.only or SECTIONS:
        print(f"==> {name}: {SECTIONS[name].__doc__}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            results[name] = SECTIONS[name](Path(folder))
        for figure, value in results[name].items():
            print(f"    {figure:32} {value:,.6g}", flush=True)
        path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

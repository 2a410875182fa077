from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.influence.worker.scratch import scratch_folder
from tests.conftest import REPO

_HOLD = """
import pathlib, sys, time
from services.influence.worker.scratch import scratch_folder
with scratch_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "large").write_text("x")
    print(folder, flush=True)
    time.sleep(3600)
"""


def test_a_folder_goes_with_its_block(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "parent") as one, scratch_folder(tmp_path / "parent") as other:
        assert one != other
        assert one.is_dir()
    assert list((tmp_path / "parent").iterdir()) == []


def test_also_after_an_error(tmp_path: Path) -> None:
    def break_it() -> None:
        with scratch_folder(tmp_path) as folder:
            (folder / "file").touch()
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        break_it()
    assert list(tmp_path.iterdir()) == []


def test_that_of_a_killed_process_is_removed_by_the_next_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO)
    with holder:
        assert holder.stdout is not None
        left = Path(holder.stdout.readline().strip())
        with scratch_folder(tmp_path):
            assert (left / "large").exists()
        holder.kill()
    with scratch_folder(tmp_path):
        assert not left.exists()

from __future__ import annotations

from pathlib import Path

import pytest

from services.demo.run import MARKER, fresh_folder
from services.demo.stack import StackError


def test_what_an_earlier_run_left_is_replaced(tmp_path: Path) -> None:
    out = fresh_folder(tmp_path / "out" / "demo")
    (out / "state" / "influence").mkdir(parents=True)
    (out / "summary.json").write_text("old")
    assert [path.name for path in fresh_folder(out).iterdir()] == [MARKER]


def test_a_folder_of_the_user_is_left_alone(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    with pytest.raises(StackError, match="was not made by the demo"):
        fresh_folder(tmp_path)
    assert thesis.read_text() == "years of work"
    with pytest.raises(StackError, match="is a file"):
        fresh_folder(thesis)


def test_what_links_lead_to_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    out = fresh_folder(tmp_path / "out")
    (out / "link").symlink_to(elsewhere)
    fresh_folder(out)
    assert (elsewhere / "kept").exists()

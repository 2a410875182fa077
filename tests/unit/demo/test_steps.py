from __future__ import annotations

import io

import pytest
from rich.console import Console

from services.demo.steps import Steps


def told(*, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, color_system=None, width=100)
    with Steps(console) as steps, steps.step("train [a] model") as step:
        for done in range(1, 9):
            step.report(done, 8, unit="epochs")
        steps.bars.refresh()
        step.note = "recall@1 0.9"
    return output.getvalue()


def test_a_file_gets_a_line_for_each_further_quarter() -> None:
    lines = [line.strip() for line in told(terminal=False).splitlines()]
    assert lines[0] == "train [a] model ..."
    assert lines[1:5] == [f"train [a] model {done}/8 epochs" for done in (2, 4, 6, 8)]
    assert lines[5].endswith("s  train [a] model  recall@1 0.9")
    assert len(lines) == 6


def test_a_terminal_gets_a_bar_and_then_one_line() -> None:
    output = told(terminal=True)
    assert "8/8 epochs" in output
    assert output.count("recall@1 0.9") == 1
    assert "..." not in output


def test_a_step_that_fails_is_not_told_as_done() -> None:
    output = io.StringIO()

    def fail() -> None:
        with Steps(Console(file=output, width=100)) as steps, steps.step("upload"):
            raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room"):
        fail()
    assert output.getvalue() == "upload ...\n"

"""README.md says which test proves which fault: it must be true."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
FOLDER = TESTS / "robustness"
PROMISED = {*range(1, 7), 8, *range(10, 17), 18, 19, *range(21, 26), 29, 30}
ELSEWHERE = {"test_soak.py", "test_model.py", "test_table.py"}
"""Of no single fault."""
Proof = tuple[str, str]


def rows() -> dict[int, list[Proof]]:
    """Tests by the number of the fault that they prove."""
    lines = (FOLDER / "README.md").read_text().splitlines()
    found = [re.match(r"\| (\d+) \|", line) for line in lines]
    return {
        int(number[1]): re.findall(r"`([\w/]+\.py)::(\w+)`", line)
        for number, line in zip(found, lines, strict=True)
        if number
    }


ROWS = rows()
NAMED = sorted({proof for proofs in ROWS.values() for proof in proofs})


@cache
def names_in(path: Path) -> frozenset[str]:
    """Names of the tests that pytest collects from a file."""
    body = list(ast.parse(path.read_text()).body)
    for item in list(body):
        if isinstance(item, ast.ClassDef) and item.name.startswith("Test"):
            body += item.body
    functions = [item for item in body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
    return frozenset(function.name for function in functions if function.name.startswith("test_"))


def test_every_promised_fault_has_a_proof() -> None:
    assert {number for number, proofs in ROWS.items() if proofs} >= PROMISED
    assert all(ROWS.values())


@pytest.mark.parametrize(("path", "name"), NAMED, ids=["::".join(proof) for proof in NAMED])
def test_every_named_test_exists(path: str, name: str) -> None:
    assert Path(path).name.startswith("test_")
    assert name in names_in(TESTS / path)


def test_no_test_of_a_fault_is_missing() -> None:
    here = {
        (f"robustness/{path.name}", name)
        for path in FOLDER.glob("test_*.py")
        if path.name not in ELSEWHERE
        for name in names_in(path)
    }
    assert here <= set(NAMED)

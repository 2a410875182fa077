"""The programs that findings are handed to, and a real audit whose findings they get."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli import Ended, run_eif
from tests.system import System, running_system


@dataclass(frozen=True, kw_only=True)
class Audited:
    """Services with a finished audit, `tuesday`, of `train.jsonl`."""

    system: System

    @property
    def folder(self) -> Path:
        """Where the manifests lie."""
        return self.system.files

    def eif(self, line: str) -> Ended:
        """Run `eif` there."""
        ended = run_eif(*shlex.split(line), variables=self.system.variables, cwd=self.folder)
        assert ended.exit_code == 0, ended
        return ended


@pytest.fixture(scope="session")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    with running_system(tmp_path_factory.mktemp("audited"), which="influence") as system:
        found = Audited(system=system)
        found.eif(
            "audit --model model --train train.jsonl --test test.jsonl --proofs 0 --no-report --id tuesday --wait"
        )
        yield found


@pytest.fixture(scope="session")
def label_studio_python() -> Path:
    return _interpreter("EIF_LABEL_STUDIO_PYTHON", "Label Studio")


@pytest.fixture(scope="session")
def fiftyone_python() -> Path:
    return _interpreter("EIF_FIFTYONE_PYTHON", "FiftyOne")


def _interpreter(variable: str, program: str) -> Path:
    """The interpreter that a variable names."""
    name = os.environ.get(variable, "")
    if not name or not Path(name).exists():
        pytest.skip(f"THE ROUND TRIP WAS NOT TRIED IN {program.upper()}: {variable} names no Python: {name!r}")
    return Path(name).absolute()  # not resolved: the link is what makes it the environment's

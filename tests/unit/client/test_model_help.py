from __future__ import annotations

import pytest

from eif_engine.__main__ import build_parser
from tests.cli import Cli


@pytest.mark.parametrize("command", ["check", "export-onnx"])
def test_help_names_every_option_of_the_engine(command: str, cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([command, "--help"])
    words = capsys.readouterr().out.translate(str.maketrans("[],", "   ")).split()
    options = {word for word in words if word.startswith("--")} - {"--help"}
    shown = cli("model", command, "--help").out
    assert options
    assert [option for option in sorted(options) if option not in shown] == []

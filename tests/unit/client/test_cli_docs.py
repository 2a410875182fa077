from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from services.client.cli import exit_codes
from services.client.cli.app import eif
from services.client.cli.exit_codes import TEXT

REPO = Path(__file__).resolve().parents[3]
PAGES = [
    REPO / "docs" / "cli.md",
    REPO / "README.md",
    REPO / "docs" / "gate.md",
    REPO / "docs" / "round-trip.md",
]


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command with the words that lead to it."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(leaves(eif))


def shell_commands(text: str) -> list[list[str]]:
    """The words of every `eif ...` in shell lines: also inside $(...), behind variables and in pipes."""
    return [command[1:] for line in text.splitlines() for command in _commands(line) if command[:1] == ["eif"]]


def _commands(line: str) -> Iterator[list[str]]:
    inner = re.sub(r"^\w+=\$\((.*)\)$", r"\1", line.strip()).replace(".venv/bin/eif", "eif")
    command: list[str] = []
    for word in [*shlex.split(inner, comments=True), "|"]:
        if word in {"|", ">"}:
            yield command
            command = []
        elif not re.fullmatch(r"EIF_\w+=.*", word):
            command.append(word)


def documented(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL)
    return [command for block in blocks for command in shell_commands(block)]


def check(arguments: list[str]) -> None:
    """Parse as the program would, and run nothing."""
    command: click.Command = eif
    context = click.Context(eif, info_name="eif")
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context(name, arguments, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_the_docs_can_be_typed(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda _self, value, _param, _ctx: Path(value))  # /srv/... is not here
    commands = documented(page)
    assert len(commands) >= 5
    for arguments in commands:
        if arguments[-1:] != ["--help"]:
            check(arguments)


def test_the_docs_show_every_command() -> None:
    shown = {tuple(arguments[: len(path)]) for arguments in documented(PAGES[0]) for path in COMMANDS}
    prose = PAGES[0].read_text()
    missing = [path for path in COMMANDS if path not in shown and f"`eif {' '.join(path)}" not in prose]
    assert missing == []


@pytest.mark.parametrize("path", list(COMMANDS), ids=" ".join)
def test_every_help_has_an_example_that_can_be_typed(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    shown = command.get_help(click.Context(command, info_name=" ".join(("eif", *path))))
    examples = shell_commands(shown.partition("Examples:")[2])
    assert any(tuple(arguments[: len(path)]) == path for arguments in examples)
    for arguments in examples:
        if not any(word.startswith("/srv/") for word in arguments):
            check(arguments)
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))


def test_the_table_of_exit_codes_is_that_of_the_program() -> None:
    table = dict(re.findall(r"^\| (\d+) \| (.*?) \|$", PAGES[0].read_text(), flags=re.MULTILINE))
    program = {str(value) for name, value in vars(exit_codes).items() if name.isupper() and type(value) is int}
    assert set(table) == program
    assert set(re.findall(r"^  (\d+)", TEXT, flags=re.MULTILINE)) == program

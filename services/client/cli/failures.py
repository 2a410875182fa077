"""Every way a command can end, as one line on standard error and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from services.client.cli import exit_codes
from services.client.cli.text import printable

if TYPE_CHECKING:
    from services.client.errors import EifRpcError

_HINTS = {
    "CREDENTIALS_MISSING": "name the file of your token with --token-file, or your certificate with --certificate-file",
    "DEADLINE_EXCEEDED": "try again, or allow more with --timeout",
    "JOB_NOT_FOUND": "`eif jobs list` shows the jobs of a project",
    "JOB_NOT_SUCCEEDED": "`eif watch JOB` follows it",
    "JOB_NOT_ENDED": "`eif jobs cancel JOB --wait` stops it",
    "QUERY_NOT_FOUND": "`eif results JOB --table pairs` shows the queries",
    "MODEL_NOT_FOUND": "`eif model list` shows the models, `eif model load` loads one",
    "INDEX_NOT_FOUND": "`eif index list` shows the indexes",
    "INDEX_NOT_READY": "`eif index watch INDEX` follows its build",
    "POLICY_INVALID": "`eif gate --show-policy` prints a policy that holds, to start from",
    "WAIT_TIMEOUT": "`eif watch` follows it further",
}
_FILE_HINT = "the server reads files only below its file roots: `eif serve all --file-root FOLDER`"


class InputError(click.ClickException):
    """What the user gave cannot be used; found before any server was asked."""

    exit_code = exit_codes.FAILED


class Interrupted(Exception):
    """Ctrl-C, with what happens to the work that goes on elsewhere."""


class PipeClosed(Exception):
    """The reader of standard output has left."""


def run_guarded(command: Callable[[], object]) -> int:
    """Run a command and return its exit code; print what went wrong. EIF_DEBUG=1 adds the traceback."""
    try:
        result = command()
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last net: a user gets a line, not a traceback
        if os.environ.get("EIF_DEBUG"):
            traceback.print_exception(error)
        return _ended_with(error)
    return result if isinstance(result, int) else exit_codes.OK


def _ended_with(error: BaseException) -> int:
    match error:
        case PipeClosed() | BrokenPipeError():
            exit_code = _pipe_closed()
        case click.exceptions.Exit():
            exit_code = error.exit_code
        case click.UsageError():
            error.show()
            exit_code = exit_codes.USAGE
        case click.ClickException():
            exit_code = _say(f"error: {error.message}", error.exit_code)
        case Interrupted():
            exit_code = _say(str(error), exit_codes.INTERRUPTED)
        case click.Abort() | KeyboardInterrupt():  # before or after the command
            exit_code = _say("interrupted", exit_codes.INTERRUPTED)
        case _:
            exit_code = _unexpected(error)
    return exit_code


def _unexpected(error: BaseException) -> int:
    from services.client.errors import EifRpcError

    if isinstance(error, EifRpcError):
        return _say(f"error: {error.reason}: {error.message}{_hint(error)}", exit_codes.exit_code_of(error))
    if isinstance(error, OSError) and error.filename:
        return _say(f"error: {error.filename}: {error.strerror}", exit_codes.FAILED)
    if isinstance(error, OSError):
        _discard_output()
        return _say(f"error: standard output: {error.strerror or error}", exit_codes.FAILED)
    said = f"error: INTERNAL: {type(error).__name__}: {error}; a fault of eif itself, EIF_DEBUG=1 shows where"
    return _say(said, exit_codes.FAILED)


def _hint(error: EifRpcError) -> str:
    hints = [*getattr(error, "__notes__", [])]
    if error.reason == "URI_NOT_ALLOWED" and "file://" in error.message:
        hints.append(_FILE_HINT)
    hints.extend(hint for reason, hint in _HINTS.items() if reason == error.reason)
    return "".join(f"; {hint}" for hint in hints)


def _say(line: str, exit_code: int) -> int:
    click.echo(printable(line.replace("\n", " ")), err=True)
    return exit_code


def _pipe_closed() -> int:
    _discard_output()
    return exit_codes.PIPE_CLOSED


def _discard_output() -> None:
    # The interpreter flushes standard output once more when it ends: let that go nowhere instead of failing.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

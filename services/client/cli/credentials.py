"""The options that say how a service is known, and who calls it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from services.client.cli.failures import InputError
from services.client.credentials import PREFIX, Credentials, CredentialsError

Command = TypeVar("Command", bound=Callable[..., Any])

_FILES = {
    "ca_file": "PEM file of the authorities of the server; implies --tls.",
    "certificate_file": "PEM certificate of this client; implies --tls.",
    "key_file": "Its private key.",
    "token_file": f"Holds the token to send; {PREFIX}TOKEN may have the token itself.",
}


def credentials_options(command: Command) -> Command:
    """Add the options; the command gets what they say as `credentials`."""

    @functools.wraps(command)
    def with_credentials(*arguments: Any, tls: bool, **others: Any) -> Any:  # noqa: ANN401 - any command
        files: dict[str, Path | None] = {name: others.pop(name) for name in _FILES}
        return command(*arguments, credentials=_credentials(tls=tls, **files), **others)

    wrapped: Any = with_credentials
    for name, help_text in reversed(_FILES.items()):
        wrapped = click.option(
            f"--{name.replace('_', '-')}",
            name,
            type=click.Path(dir_okay=False, path_type=Path),
            envvar=f"{PREFIX}{name.upper()}",
            show_envvar=True,
            metavar="FILE",
            help=help_text,
        )(wrapped)
    tls = click.option("--tls", is_flag=True, envvar=f"{PREFIX}TLS", show_envvar=True, help="Encrypt the connection.")
    return tls(wrapped)  # type: ignore[no-any-return]  # click keeps the function and adds its parameters to it


def _credentials(*, tls: bool, token_file: Path | None, **files: Path | None) -> Credentials:
    # A token on the command line could be read by everybody on this machine: it comes from the environment or a file.
    token = None if token_file else os.environ.get(f"{PREFIX}TOKEN") or None
    try:
        return Credentials(tls=tls, token=token, token_file=token_file, **files)
    except CredentialsError as error:
        raise InputError(str(error)) from None

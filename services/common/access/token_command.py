"""`python -m services.influence token NAME`: makes a bearer token."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from services.common.access.token_file import NAME_RULE, entry_of, new_token


def make_token(arguments: Sequence[str], *, program: str, variable: str) -> int:
    """Print a new token on standard output, once, and what the file of tokens needs of it on standard error.

    Args:
        arguments: Those after the verb.
        program: How it was called, for the help.
        variable: Environment variable of the setting that names the file.

    Returns:
        The exit code: 0, or 2 when the name cannot be used.
    """
    parser = argparse.ArgumentParser(
        prog=f"{program} token",
        description="Makes a bearer token. Standard output has the token, which is kept nowhere else; standard error "
        "has the entry for the file of tokens, which has only its sha256.",
    )
    parser.add_argument("name", metavar="NAME", help="of the caller; its identity is token:NAME")
    name = parser.parse_args(arguments).name
    token = new_token()
    try:
        entry = entry_of(name, token)
    except ValidationError:
        sys.stderr.write(f"{name!r} is not a name: names match {NAME_RULE}\n")
        return 2
    sys.stderr.write(
        f'# add to `tokens` in the file of {variable}:\n  - name: {entry.name}\n    sha256: "{entry.sha256}"\n'
    )
    sys.stderr.flush()
    sys.stdout.write(f"{token}\n")
    return 0

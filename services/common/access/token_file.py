"""Bearer tokens: who has which, by sha256. The tokens themselves are kept nowhere.

version: 1
tokens:
  - name: nightly
    sha256: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from services.common.access.yaml_file import Strict, parse_yaml
from services.common.watched_files import WatchedFiles

MAX_TOKENS = 1000
MAX_TOKEN_LENGTH = 512
NAME_RULE = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"

_PREFIX = "eif_"
_RANDOM_BYTES = 32


class TokenEntry(Strict):
    """A token. Two entries of one name are two tokens of one caller, as while the old one is replaced."""

    name: Annotated[str, Field(pattern=NAME_RULE, description="Of the caller: its identity is `token:<name>`.")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="Of the token, in hexadecimal digits.")]


class TokenFile(Strict):
    """The tokens that a server takes."""

    version: Annotated[Literal[1], Field(description="Version of this form.")]
    tokens: Annotated[tuple[TokenEntry, ...], Field(max_length=MAX_TOKENS, description="In any order.")]


class TokenBook:
    """The tokens of a file, which is read again when it changes. Raises ARGUMENT_INVALID when it cannot be used."""

    def __init__(self, path: Path) -> None:
        self._digests = WatchedFiles([path], lambda contents: _digests(contents[0]), what="the file of tokens")

    def name_of(self, token: str) -> str | None:
        """Who has this token; None when nobody does (any more)."""
        if len(token) > MAX_TOKEN_LENGTH:
            return None
        given, found = hashlib.sha256(token.encode()).digest(), None
        for digest, name in self._digests.current():  # all of them, always: how long it takes tells nothing
            if hmac.compare_digest(digest, given):
                found = name
        return found


def new_token() -> str:
    """A token that nobody else has: 256 random bits."""
    return f"{_PREFIX}{secrets.token_urlsafe(_RANDOM_BYTES)}"


def entry_of(name: str, token: str) -> TokenEntry:
    """What the file needs to know of a token. Raises ValidationError for a name that breaks its rule."""
    return TokenEntry(name=name, sha256=hashlib.sha256(token.encode()).hexdigest())


def _digests(data: bytes) -> tuple[tuple[bytes, str], ...]:
    return tuple((bytes.fromhex(entry.sha256), entry.name) for entry in parse_yaml(TokenFile, data).tokens)

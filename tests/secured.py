"""What a server needs that knows its callers: certificates, tokens and a policy, in files that a test changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import yaml

from services.common.access.token_file import entry_of, new_token
from tests.pki import Authority, Pair, credentials_of


class Secured:
    """Files below a folder.

    Attributes:
        authority: Of the server, and of the certificates of callers.
        server: The certificate of the server.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._tokens: list[tuple[str, str]] = []
        self.authority = Authority(folder / "pki")
        self.server = self.authority.server()
        self._write_tokens()
        self.policy()

    def token(self, name: str) -> str:
        """A new token of a caller."""
        token = new_token()
        self._tokens.append((name, token))
        self._write_tokens()
        return token

    def revoke(self, name: str) -> None:
        """Take the tokens of a caller out."""
        self._tokens = [(owner, token) for owner, token in self._tokens if owner != name]
        self._write_tokens()

    def policy(
        self, *grants: tuple[Sequence[str], Sequence[str], Sequence[str]], **projects: Mapping[str, Any]
    ) -> None:
        """Write the policy: grants of verbs in projects to identities, and the places of projects."""
        keys = ("identities", "projects", "verbs")
        self._write(
            "access.yaml",
            {
                "version": 1,
                "projects": dict(projects),
                "grants": [dict(zip(keys, map(list, grant), strict=True)) for grant in grants],
            },
        )

    def settings(self, *, certificates: bool = False) -> dict[str, Any]:
        """Settings of a server; with `certificates`, its callers need one."""
        return {
            "tls_certificate_file": self.server.certificate,
            "tls_key_file": self.server.key,
            "tls_client_ca_file": self.authority.certificate if certificates else None,
            "token_file": self._folder / "tokens.yaml",
            "access_file": self._folder / "access.yaml",
        }

    def environ(self, prefix: str, *, certificates: bool = False) -> dict[str, str]:
        """The same as environment variables."""
        settings = self.settings(certificates=certificates)
        return {f"{prefix}{name.upper()}": str(value) for name, value in settings.items() if value is not None}

    def connect(self, client: Pair | None = None) -> Callable[[str], grpc.aio.Channel]:
        """Makes a channel to an address."""
        return lambda address: grpc.aio.secure_channel(address, credentials_of(self.authority.certificate, client))

    def _write_tokens(self) -> None:
        entries = [entry_of(name, token).model_dump() for name, token in self._tokens]
        self._write("tokens.yaml", {"version": 1, "tokens": entries})

    def _write(self, name: str, content: object) -> None:
        new = self._folder / f".{name}"
        new.write_text(yaml.safe_dump(content))
        new.replace(self._folder / name)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata that brings a token."""
    return (("authorization", f"Bearer {token}"),)

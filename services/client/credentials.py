"""How a client knows its server, and says who calls."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "EIF_CLIENT_"
MAX_TOKEN_BYTES = 8192

_TOKEN = re.compile("[!-~]+")
_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})


class CredentialsError(ValueError):
    """What was given cannot be used; the message says what to do, and has no secrets."""


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Of a client. Files are PEM. They are followed: a call uses what they hold when it begins.

    Attributes:
        tls: Encrypt, and trust the authorities that gRPC brings along. `ca_file` and `certificate_file` imply it.
        ca_file: Trust these authorities instead.
        certificate_file: Certificate of this client, for servers that want one.
        key_file: Its private key, without a passphrase.
        token: Sent with every call; never over plain text that leaves this machine.
        token_file: Holds the token instead, and may change.
    """

    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise CredentialsError("the certificate of a client and its key go together: give both files")
        if self.token is not None and self.token_file is not None:
            raise CredentialsError("give a token or the file that holds it, not both")
        self.bearer()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Credentials:
        """Those of EIF_CLIENT_TLS, EIF_CLIENT_CA_FILE and so on: one variable for each attribute."""

        def path(name: str) -> Path | None:
            text = environ.get(f"{PREFIX}{name}")
            return Path(text) if text else None

        return cls(
            tls=_flag(f"{PREFIX}TLS", environ.get(f"{PREFIX}TLS", "")),
            ca_file=path("CA_FILE"),
            certificate_file=path("CERTIFICATE_FILE"),
            key_file=path("KEY_FILE"),
            token=environ.get(f"{PREFIX}TOKEN") or None,
            token_file=path("TOKEN_FILE"),
        )

    @property
    def encrypted(self) -> bool:
        """Whether connections use TLS."""
        return self.tls or self.ca_file is not None or self.certificate_file is not None

    @property
    def has_token(self) -> bool:
        """Whether calls bring a token."""
        return self.token is not None or self.token_file is not None

    def bearer(self) -> str | None:
        """The token as it is now. Raises CredentialsError."""
        if self.token_file is not None:
            text = read_pem(self.token_file, "the file of the token").decode("ascii", "replace").strip()
        elif self.token is not None:
            text = self.token
        else:
            return None
        if len(text) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(text):
            where = f"{self.token_file} holds no token" if self.token_file else "the token is none"
            raise CredentialsError(f"{where}: a token is a word of visible ASCII characters")
        return text


def read_pem(path: Path, what: str) -> bytes:
    """A file. Raises CredentialsError that says which."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialsError(f"{what} {path} cannot be read: {error.strerror}") from error


def _flag(name: str, text: str) -> bool:
    if text.lower() in _YES:
        return True
    if text.lower() in _NO:
        return False
    raise CredentialsError(f"{name} is {text[:20]!r}; write true or false")

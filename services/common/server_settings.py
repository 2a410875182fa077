"""Settings of every server: how it is reached, by whom, and by how many at a time; see docs/security.md."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServerSettings(BaseSettings):
    """Of a server. Each service adds its own, and the prefix of their variables."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    listen: str = "127.0.0.1:0"
    """`host:port`; port 0 takes a free one."""
    insecure: bool = False
    """Allow an address that other machines can reach, although traffic is plain text. Not with `access_file`."""
    insecure_loopback: bool = False
    """Allow plain text on the loopback although callers are identified: what they send is not encrypted there."""
    ops_listen: str | None = None
    """`host:port` for probes and metrics over plain HTTP, for whoever runs the server alone. None: there is none."""

    tls_certificate_file: Path | None = None
    """PEM certificate of this server, intermediate ones after it; read again when it changes. None: plain text."""
    tls_key_file: Path | None = None
    """Its private key, without a passphrase; read again when it changes."""
    tls_client_ca_file: Path | None = None
    """PEM certificates of those who sign for clients, which then need a certificate; read again when it changes."""
    token_file: Path | None = None
    """Tokens that callers may bring, by sha256; read again when it changes."""
    access_file: Path | None = None
    """Who may do what in which project; read again when it changes. None: callers are not identified and may do all."""
    reflection: bool | None = None
    """Tell what services and messages there are. None: yes, unless callers are identified."""

    max_calls: int = Field(default=512, ge=1, le=100_000)
    """Calls in work; the next ones are refused with TOO_MANY_CALLS. Streams and health checks are not among them."""
    max_streams: int = Field(default=4096, ge=1, le=100_000)
    """Streams in work; the next ones are refused with TOO_MANY_CALLS. As many again of health and reflection."""
    max_connections: int = Field(default=4096, ge=1, le=100_000)
    """Open connections; the next ones are closed. At most three quarters of the files that the process may open."""
    max_connection_age_s: float = Field(default=600.0, ge=1)
    """Seconds after which a connection is asked to close, a tenth more or less at random."""
    connection_grace_s: float = Field(default=300.0, ge=0)
    """Seconds that calls on such a connection have to end."""
    handshake_s: float = Field(default=10.0, gt=0)
    """Seconds that a new connection may take until the first call can come."""

    @field_validator(
        "ops_listen",
        "tls_certificate_file",
        "tls_key_file",
        "tls_client_ca_file",
        "token_file",
        "access_file",
        mode="before",
    )
    @classmethod
    def _none_when_left_empty(cls, value: object) -> object:
        return None if value == "" else value

    def variable(self, name: str) -> str:
        """The environment variable of a setting."""
        return f"{self.model_config.get('env_prefix', '')}{name.upper()}"

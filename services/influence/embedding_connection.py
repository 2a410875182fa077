"""How the embedding service is reached: read by the server, which passes it on, and by the job process, which calls."""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.client.channel import check_target
from services.client.credentials import Credentials, CredentialsError
from services.common.errors import ServiceError

_FILES = ("embedding_ca_file", "embedding_certificate_file", "embedding_key_file", "embedding_token_file")


class EmbeddingConnection(BaseSettings):
    """Where the embedding service is, and how the two know each other. Files are read by the job process."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    embedding_target: str | None = None
    """`host:port` of the embedding service, for relabel jobs with `knn_index`. None: such jobs are refused."""
    embedding_tls: bool = False
    """Encrypt, and trust the authorities that gRPC brings along. The next two settings imply it."""
    embedding_ca_file: Path | None = None
    """PEM certificates of the authorities of the embedding service."""
    embedding_certificate_file: Path | None = None
    """PEM certificate of this service, where the embedding service wants one."""
    embedding_key_file: Path | None = None
    """Its private key, without a passphrase."""
    embedding_token_file: Path | None = None
    """Holds the token that the embedding service knows this service by."""

    @field_validator("embedding_target", *_FILES, mode="before")
    @classmethod
    def _no_embedding_setting_when_left_empty(cls, value: object) -> object:
        return None if value == "" else value

    @property
    def embedding_credentials(self) -> Credentials:
        """What calls of the embedding service are made with. Raises CredentialsError when it cannot be used."""
        return Credentials(
            tls=self.embedding_tls,
            ca_file=self.embedding_ca_file,
            certificate_file=self.embedding_certificate_file,
            key_file=self.embedding_key_file,
            token_file=self.embedding_token_file,
        )

    def check_embedding(self) -> None:
        """Refuse to start with what jobs could not use. Raises ARGUMENT_INVALID."""
        try:
            check_target(self.embedding_target or "", self.embedding_credentials)
        except CredentialsError as error:
            raise ServiceError("ARGUMENT_INVALID", f"embedding service: {error}", field="embedding_target") from error

    def embedding_environ(self, prefix: str) -> dict[str, str]:
        """The environment from which the job process reads the same."""
        values = {name: getattr(self, name) for name in EmbeddingConnection.model_fields}
        return {
            f"{prefix}{name.upper()}": str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in values.items()
            if value is not None
        }

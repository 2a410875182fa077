"""Settings of the object store, from `EIF_STORAGE_*`. Read once, where a process starts; see docs/operations.md."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

from pydantic import SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "EIF_STORAGE_"


class StorageSettings(BaseSettings):
    """Where objects may lie, and how the S3 endpoint is reached."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    s3_endpoint: str | None = None
    """`host[:port]`, or a URL whose scheme then decides `s3_secure`. None: s3:// is off."""
    s3_access_key: str | None = None
    """None together with `s3_secret_key` and `s3_credentials_file`: anonymous requests."""
    s3_secret_key: SecretStr | None = None
    s3_session_token: SecretStr | None = None
    s3_credentials_file: Path | None = None
    """Keys in the form of ~/.aws/credentials, section `default`, instead of those above; read again when it changes."""
    s3_region: str = "us-east-1"
    s3_secure: bool = True
    """TLS, with certificates verified."""
    s3_ca_file: Path | None = None
    """PEM file of the authorities that sign the endpoint's certificate. None: the ones that come with `certifi`."""
    file_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    """Folders under which file:// is allowed, separated by `:` in the environment. Empty: file:// is off."""
    allowed_prefixes: Annotated[tuple[str, ...], NoDecode] = ()
    """Starts of the URIs that are allowed, separated by `,` in the environment. Empty: all that the rest allows."""

    @field_validator("file_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: object) -> object:
        return _split(value, os.pathsep)

    @field_validator("allowed_prefixes", mode="before")
    @classmethod
    def _split_prefixes(cls, value: object) -> object:
        return _split(value, ",")

    @field_validator("file_roots")
    @classmethod
    def _absolute_folders(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_absolute():
                raise ValueError(f"file root {root} is not absolute")
        return roots

    @field_validator("allowed_prefixes")
    @classmethod
    def _known_schemes(cls, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in prefixes:
            if not prefix.startswith(("s3://", "file:///")):
                raise ValueError(f"allowed prefix {prefix} must start with s3:// or file:///")
        return prefixes

    @model_validator(mode="before")
    @classmethod
    def _endpoint_url(cls, data: object) -> object:
        if isinstance(data, dict) and "://" in str(data.get("s3_endpoint")):
            scheme, _, host = str(data["s3_endpoint"]).partition("://")
            if scheme not in {"http", "https"}:
                raise ValueError(f"s3_endpoint must be host[:port] or an http(s) URL, not {scheme}://")
            return {**data, "s3_endpoint": host.rstrip("/"), "s3_secure": scheme == "https"}
        return data

    @field_validator("s3_endpoint")
    @classmethod
    def _host_and_port_only(cls, endpoint: str | None) -> str | None:
        if endpoint and any(char in endpoint for char in "/@? "):
            raise ValueError("s3_endpoint must be host[:port], without path, user or query")
        return endpoint or None

    @model_validator(mode="after")
    def _both_keys_or_none(self) -> StorageSettings:
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            raise ValueError("s3_access_key and s3_secret_key go together: set both, or neither for anonymous requests")
        if self.s3_credentials_file is not None and self.s3_access_key is not None:
            raise ValueError("s3_credentials_file stands in for s3_access_key and s3_secret_key: set it, or them")
        return self

    @property
    def schemes(self) -> tuple[str, ...]:
        """URI schemes that are enabled."""
        return tuple(name for name, on in (("file", self.file_roots), ("s3", self.s3_endpoint)) if on)

    def secrets(self) -> tuple[str, ...]:
        """What must not be told in logs and messages."""
        values = (self.s3_access_key, self.s3_secret_key, self.s3_session_token)
        return tuple(value if isinstance(value, str) else value.get_secret_value() for value in values if value)

    def to_environ(self) -> dict[str, str]:
        """The environment from which a child process reads the same settings. It holds the secrets: never log it."""
        values = {name: _text(getattr(self, name)) for name in type(self).model_fields}
        return {f"{PREFIX}{name.upper()}": value for name, value in values.items() if value is not None}


def _split(value: object, separator: str) -> object:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(separator) if part.strip()]


def _text(value: object) -> str | None:
    match value:
        case None | ():
            return None
        case SecretStr():
            return value.get_secret_value()
        case bool():
            return str(value).lower()
        case tuple():
            return json.dumps([str(item) for item in value])
        case _:
            return str(value)

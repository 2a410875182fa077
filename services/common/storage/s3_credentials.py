"""Who asks an S3 endpoint: keys of the settings, or of a file that is replaced while the process runs."""

from __future__ import annotations

import configparser
from collections.abc import Sequence
from pathlib import Path

from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider, StaticProvider

from services.common.redaction import learn_secrets
from services.common.settings import StorageSettings
from services.common.watched_files import WatchedFiles

PROFILE = "default"


def credentials_of(settings: StorageSettings) -> Provider | None:
    """None: requests are anonymous.

    Raises:
        ServiceError: ARGUMENT_INVALID when the file of the settings cannot be used.
    """
    if settings.s3_credentials_file is not None:
        return FileCredentials(settings.s3_credentials_file)
    secret, token = settings.s3_secret_key, settings.s3_session_token
    if settings.s3_access_key is None or secret is None:
        return None
    return StaticProvider(
        settings.s3_access_key, secret.get_secret_value(), token.get_secret_value() if token else None
    )


class FileCredentials(Provider):
    """Keys of a shared credentials file, as they are when a request is made. Thread-safe.

    Temporary credentials are so renewed by whoever replaces the file, and no request is made with those of before.

    Args:
        path: Of the file; its section `default` counts.
    """

    def __init__(self, path: Path) -> None:
        self._file = WatchedFiles([path], _parse, what="the file of S3 credentials")

    def retrieve(self) -> Credentials:
        return self._file.current()


def _parse(contents: Sequence[bytes]) -> Credentials:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(contents[0].decode())
    except configparser.Error as error:  # its text quotes the line, which may be a key
        raise ValueError(f"it is no INI file ({type(error).__name__})") from None
    if not parser.has_section(PROFILE):
        raise ValueError(f"it has no section [{PROFILE}]")
    section = parser[PROFILE]
    access_key, secret_key = section.get("aws_access_key_id"), section.get("aws_secret_access_key")
    if not access_key or not secret_key:
        raise ValueError(f"its section [{PROFILE}] must have aws_access_key_id and aws_secret_access_key")
    session_token = section.get("aws_session_token") or None
    learn_secrets(access_key, secret_key, session_token)
    return Credentials(access_key, secret_key, session_token=session_token)

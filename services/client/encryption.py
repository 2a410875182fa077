"""TLS of a client: whom it trusts, and its own certificate."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import grpc

from services.client.credentials import Credentials, CredentialsError, read_pem
from services.client.following_channel import FollowingChannel
from services.common.followed_files import FilesUnusable, FollowedFiles

_WHAT = "what this client uses for TLS"


def encrypted_channel(target: str, credentials: Credentials, options: Sequence[tuple[str, str | int]]) -> grpc.Channel:
    """A channel with TLS. Where files say how, it follows them: calls after a change run on a new connection.

    Files that do not fit together, as in the middle of a change, are logged; those of before go on.

    Raises:
        CredentialsError: The files cannot be used.
    """
    files_of = {
        "the file of authorities": credentials.ca_file,
        "the certificate file": credentials.certificate_file,
        "the key file": credentials.key_file,
    }
    named = [(path, what) for what, path in files_of.items() if path]
    if not named:
        return grpc.secure_channel(target, grpc.ssl_channel_credentials(), options=list(options))
    for path, what in named:
        read_pem(path, what)
    try:
        files = FollowedFiles([path for path, _ in named], lambda read: _Material(credentials, read), what=_WHAT)
    except FilesUnusable as error:
        raise CredentialsError(str(error)) from error
    return FollowingChannel(
        files, lambda material: grpc.secure_channel(target, material.credentials(), options=list(options))
    )


class _Material:
    """What the files held. Raises ValueError for what is no PEM, and for a key of another certificate."""

    def __init__(self, credentials: Credentials, contents: Sequence[bytes]) -> None:
        left = list(contents)
        self._ca: bytes | None = None
        if credentials.ca_file:
            self._ca = _pem(credentials.ca_file, left.pop(0), "CERTIFICATE")
            _check_authorities(credentials.ca_file, self._ca)
        self._certificate: bytes | None = None
        self._key: bytes | None = None
        if credentials.certificate_file and credentials.key_file:
            self._certificate = _pem(credentials.certificate_file, left.pop(0), "CERTIFICATE")
            self._key = _pem(credentials.key_file, left.pop(0), "PRIVATE KEY")
            _check_pair(credentials.certificate_file, credentials.key_file)

    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self._ca, private_key=self._key, certificate_chain=self._certificate)


def _pem(path: Path, data: bytes, kind: str) -> bytes:
    if f"{kind}-----".encode() not in data:
        raise ValueError(f"{path} is not PEM: it has no BEGIN {kind}")
    return data


def _check_pair(certificate: Path, key: Path) -> None:
    """Reads again; FollowedFiles sees a change meanwhile."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise ValueError(f"{key} is not the key of {certificate}, without a passphrase ({error.reason})") from error


def _check_authorities(path: Path, data: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii", "replace"))
    except ssl.SSLError as error:
        raise ValueError(f"{path} has no certificates of authorities ({error.reason})") from error

"""The certificate of a server, and whose certificates it asks of clients; both may change while it runs."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.common.watched_files import WatchedFiles


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files.

    Attributes:
        certificate: Of the server, with the intermediate ones after it.
        key: Its private key, without a passphrase.
        client_ca: Who must have signed the certificate of a client. None: clients need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True)
class _Pair:
    """Contents of the files that belong together."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None

    def as_configuration(self) -> grpc.ServerCertificateConfiguration:
        """A new one each time: the library takes the one that it is given."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.client_ca)


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that follow the files: each new connection is made with the certificate of that moment.

    Connections that stand keep the certificate that they began with. A pair that does not fit, or cannot be read, is
    logged, and the one before goes on.

    Raises:
        ServiceError: ARGUMENT_INVALID, when the files cannot be used.
    """
    paths = [files.certificate, files.key, *([files.client_ca] if files.client_ca else [])]
    watched = WatchedFiles(paths, lambda contents: _pair(files, contents), what="the certificate of this server")
    in_use = watched.current()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """Asked before every handshake, in a thread of the library."""
        nonlocal in_use
        now = watched.current()
        if now is in_use:
            return None
        in_use = now
        return now.as_configuration()

    return grpc.dynamic_ssl_server_credentials(
        in_use.as_configuration(),
        changed,  # type: ignore[arg-type]  # the stubs leave out that None means no change
        require_client_authentication=files.client_ca is not None,
    )


def _pair(files: TlsFiles, contents: Sequence[bytes]) -> _Pair:
    """Refuse what the library would only refuse at a handshake. Reads again; WatchedFiles sees a change meanwhile."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError as error:
        why = error.reason or str(error)
        raise ValueError(
            f"{files.certificate} and {files.key} are no PEM certificate and its own key without a passphrase ({why})"
        ) from error
    client_ca = contents[2] if files.client_ca else None
    if client_ca is not None:
        _check_authorities(files.client_ca, client_ca)
    return _Pair(certificate=contents[0], key=contents[1], client_ca=client_ca)


def _check_authorities(path: Path | None, data: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{path} has no PEM certificates of authorities") from error

"""The certificate of a server, and whose certificates it asks of clients; both may change while it runs."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc

from services.common.certificate_ends import first_end
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
    """Contents of the files that belong together, and when what they hold ends."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    ends: Mapping[str, float]

    def as_configuration(self) -> grpc.ServerCertificateConfiguration:
        """A new one each time: the library takes the one that it is given."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.client_ca)


class ServerTls:
    """TLS that follows its files: each new connection is made with the certificate of that moment.

    Connections that stand keep the certificate that they began with. A pair that does not fit, or cannot be read, is
    logged, and the one before goes on.

    Raises:
        ServiceError: ARGUMENT_INVALID, when the files cannot be used.
    """

    def __init__(self, files: TlsFiles) -> None:
        paths = [files.certificate, files.key, *([files.client_ca] if files.client_ca else [])]
        self._watched = WatchedFiles(
            paths, lambda contents: _pair(files, contents), what="the certificate of this server"
        )
        self._asks_clients = files.client_ca is not None

    def credentials(self) -> grpc.ServerCredentials:
        """For one server."""
        in_use = self._watched.current()

        def changed() -> grpc.ServerCertificateConfiguration | None:
            """Asked before every handshake, in a thread of the library."""
            nonlocal in_use
            now = self._watched.current()
            if now is in_use:
                return None
            in_use = now
            return now.as_configuration()

        return grpc.dynamic_ssl_server_credentials(
            in_use.as_configuration(),
            changed,  # type: ignore[arg-type]  # the stubs leave out that None means no change
            require_client_authentication=self._asks_clients,
        )

    def ends(self) -> Mapping[str, Callable[[], float]]:
        """When the certificates in use end, in seconds since 1970: `server`, and `client_ca` where clients need one.

        Of several in a file the first to end counts.
        """

        def end_of(name: str) -> Callable[[], float]:
            return lambda: self._watched.current().ends[name]

        return {name: end_of(name) for name in self._watched.current().ends}


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
    ends = {"server": first_end(contents[0])}
    if client_ca is not None:
        _check_authorities(files.client_ca, client_ca)
        ends["client_ca"] = first_end(client_ca)
    return _Pair(certificate=contents[0], key=contents[1], client_ca=client_ca, ends=ends)


def _check_authorities(path: Path | None, data: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise ValueError(f"{path} has no PEM certificates of authorities") from error

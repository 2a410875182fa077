"""What stands between a server and its callers: TLS, limits, who they are and what they may do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import grpc

from services.common.access.authentication import Authentication
from services.common.access.authorization import Authorization
from services.common.access.places import open_policy
from services.common.access.rules import Rule
from services.common.access.token_file import TokenBook
from services.common.addresses import check_address, is_loopback
from services.common.call_limit import CallLimit
from services.common.connections import Connections
from services.common.errors import ServiceError
from services.common.interceptors import Interceptors
from services.common.server_settings import ServerSettings
from services.common.tls import ServerTls, TlsFiles

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Protection:
    """Of one server.

    Attributes:
        credentials: TLS. None: plain text.
        certificate_ends: When certificates in use end, in seconds since 1970, by what they are for.
        interceptors: That admit calls, find out who calls, and whether they may.
        reflection: Whether the server tells what services it has.
        connections: How many, and how long they stay.
    """

    credentials: grpc.ServerCredentials | None = None
    certificate_ends: Mapping[str, Callable[[], float]] = field(default_factory=dict)
    interceptors: Interceptors = field(default_factory=Interceptors)
    reflection: bool = True
    connections: Connections = field(default_factory=Connections)


UNPROTECTED = Protection()


def check_transport(settings: ServerSettings) -> None:
    """Refuse settings that would send what is secret in the open, or that would let nobody in.

    Raises:
        ServiceError: ARGUMENT_INVALID that names the setting.
    """
    encrypted = settings.tls_certificate_file is not None
    identified = settings.access_file is not None
    if encrypted != (settings.tls_key_file is not None):
        raise _invalid(settings, "tls_key_file", "the certificate of a server and its key go together: set both")
    if settings.tls_client_ca_file is not None and not encrypted:
        raise _invalid(settings, "tls_client_ca_file", "certificates of clients need one of the server: set that too")
    _check_identities(settings)
    if identified and not encrypted and not (settings.insecure_loopback and is_loopback(settings.listen)):
        raise _invalid(
            settings,
            "tls_certificate_file",
            f"callers are identified, so plain text is refused on {settings.listen}; set a certificate and its key, or "
            f"on the loopback {settings.variable('insecure_loopback')}=true",
        )
    check_address(settings.listen, insecure=settings.insecure and not identified, encrypted=encrypted)


def protection_of(settings: ServerSettings, *, rules: Mapping[str, Rule], domain: str) -> Protection:
    """The protection that the settings ask for; its files are followed from here on.

    Args:
        settings: Of the server.
        rules: What each of its methods needs.
        domain: Of ErrorInfo.

    Raises:
        ServiceError: ARGUMENT_INVALID that names the setting or the file.
    """
    check_transport(settings)
    identified = settings.access_file is not None
    if settings.tls_certificate_file is not None and not identified:
        logger.warning("callers are not identified: whoever reaches %s may do everything", settings.listen)
    tls = _tls(settings)
    return Protection(
        credentials=tls.credentials() if tls else None,
        certificate_ends=tls.ends() if tls else {},
        interceptors=_interceptors(settings, rules, domain),
        reflection=not identified if settings.reflection is None else settings.reflection,
        connections=Connections(
            max_open=settings.max_connections,
            max_age_s=settings.max_connection_age_s,
            grace_s=settings.connection_grace_s,
            handshake_s=settings.handshake_s,
        ),
    )


def _check_identities(settings: ServerSettings) -> None:
    certificates = settings.tls_client_ca_file is not None
    if settings.access_file is None:
        for name in ("token_file", "tls_client_ca_file"):
            if getattr(settings, name) is not None:
                why = f"nothing is granted to anybody without a policy: set {settings.variable('access_file')} too"
                raise _invalid(settings, name, why)
    elif settings.token_file is None and not certificates:
        how = " or ".join(map(settings.variable, ("token_file", "tls_client_ca_file")))
        raise _invalid(settings, "access_file", f"nobody could say who they are: set {how} too")


def _tls(settings: ServerSettings) -> ServerTls | None:
    if settings.tls_certificate_file is None or settings.tls_key_file is None:
        return None
    return ServerTls(
        TlsFiles(
            certificate=settings.tls_certificate_file,
            key=settings.tls_key_file,
            client_ca=settings.tls_client_ca_file,
        )
    )


def _interceptors(settings: ServerSettings, rules: Mapping[str, Rule], domain: str) -> Interceptors:
    admission = [CallLimit(max_calls=settings.max_calls, max_streams=settings.max_streams, domain=domain)]
    policy = open_policy(settings)
    if policy is None:
        return Interceptors(admission=admission)
    tokens = TokenBook(settings.token_file) if settings.token_file else None
    certificates = settings.tls_client_ca_file is not None
    return Interceptors(
        admission=admission,
        authentication=[Authentication(tokens=tokens, certificates=certificates, domain=domain)],
        authorization=[Authorization(policy=policy, rules=rules, domain=domain)],
    )


def _invalid(settings: ServerSettings, name: str, why: str) -> ServiceError:
    return ServiceError("ARGUMENT_INVALID", f"{settings.variable(name)}: {why}", field=name)

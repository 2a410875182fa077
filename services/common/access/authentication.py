"""Finds out who calls, before a request is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from services.common.access.identity import CALLER, TOKEN, certificate_identity
from services.common.access.token_file import TokenBook
from services.common.call_record import note_identity
from services.common.errors import ServiceError
from services.common.guard import GuardInterceptor
from services.common.handlers import Context, Guard, is_open

_HEADER = "authorization"
_BEARER = re.compile("bearer +([!-~]+)", re.IGNORECASE)


class Authentication(GuardInterceptor):
    """Sets CALLER, or refuses with CREDENTIALS_MISSING or CREDENTIALS_INVALID.

    A token that a call brings says who calls, also where the connection has a certificate, which then is that of a
    gateway. Without a token it is the certificate.

    Args:
        tokens: The tokens that are taken. None: none are.
        certificates: Whether clients have certificates, which TLS has verified.
        domain: Of ErrorInfo.
    """

    def __init__(self, *, tokens: TokenBook | None, certificates: bool, domain: str) -> None:
        super().__init__(domain=domain)
        self._tokens = tokens
        self._certificates = certificates

    def guard(self, details: grpc.HandlerCallDetails, *, streams: bool) -> Guard | None:  # noqa: ARG002  the form of GuardInterceptor
        if is_open(details.method):
            return None
        bearer = self._bearer(details)

        @contextmanager
        def known(_request: object, context: Context) -> Iterator[None]:
            caller = bearer or certificate_identity(context.auth_context())
            if caller is None:
                raise self._missing("the certificate of the connection names nobody")
            CALLER.set(caller)  # never reset: each call has a task, and so a context, of its own
            note_identity(caller)
            yield

        return known

    def _bearer(self, details: grpc.HandlerCallDetails) -> str | None:
        """The identity by the token that a call brings; None when that of its certificate counts."""
        given = [value for key, value in details.invocation_metadata or () if key == _HEADER]
        if not given:
            if not self._certificates:
                raise self._missing("the call brings no token")
            return None
        if self._tokens is None:
            raise ServiceError(
                "CREDENTIALS_INVALID", "this server takes no tokens: send none, its clients have certificates"
            )
        match = _BEARER.fullmatch(given[0]) if len(given) == 1 and isinstance(given[0], str) else None
        name = self._tokens.name_of(match[1]) if match else None
        if name is None:
            raise ServiceError(
                "CREDENTIALS_INVALID",
                "this server does not know the token of the call (any more): ask its operators for one, and send it as "
                "metadata `authorization: Bearer <token>`",
            )
        return f"{TOKEN}{name}"

    def _missing(self, what: str) -> ServiceError:
        ways = ["a token as metadata `authorization: Bearer <token>`"] if self._tokens else []
        ways += ["a certificate with a SPIFFE id or a subject"] if self._certificates else []
        return ServiceError("CREDENTIALS_MISSING", f"{what}; this server wants {' or '.join(ways)}")

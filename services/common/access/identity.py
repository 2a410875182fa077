"""Who calls: `spiffe://...`, `subject:...` of a certificate, or `token:...`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar

SUBJECT = "subject:"
TOKEN = "token:"  # noqa: S105  how the name of one begins
SPIFFE = "spiffe://"

_MAX_LENGTH = 2048

CALLER: ContextVar[str | None] = ContextVar("caller", default=None)
"""Whoever makes the current call, once that is known."""


def certificate_identity(auth_context: Mapping[str, Iterable[bytes]]) -> str | None:
    """The identity in the verified certificate of a peer: its SPIFFE id, else its subject; None without one.

    A subject is written as RFC 2253 does: `CN=trainer,OU=ml,O=Example`.
    """
    spiffe = _only(auth_context.get("peer_spiffe_id"))
    if spiffe is not None and spiffe.startswith(SPIFFE):
        return spiffe
    subject = _only(auth_context.get("x509_subject"))
    return f"{SUBJECT}{subject}" if subject else None


def _only(values: Iterable[bytes] | None) -> str | None:
    """The one value of a property; None where there is none, several, or one that is no text."""
    found = list(values or ())
    if len(found) != 1 or len(found[0]) > _MAX_LENGTH:
        return None
    try:
        return found[0].decode()
    except UnicodeDecodeError:
        return None

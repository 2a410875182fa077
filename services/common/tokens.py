"""Page and resume tokens: a place in an answer, bound to the request that it belongs to.

A token holds no secret and no right: whoever sends it is authorised as for the request without it. It is opaque so
that callers do not build on its form, and carries a digest of the request's other fields, so that it fits the same
request on any server and after any restart, and no other one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib

from services.common.errors import ServiceError

_VERSION = b"\x01"
_DIGEST_BYTES = 14
_CHECK_BYTES = 4


def write_token(place: bytes, *bound_to: object) -> str:
    """A token for a place within what `bound_to` says (what can be written as JSON)."""
    body = _VERSION + _digest(bound_to) + place
    return base64.urlsafe_b64encode(body + _check(body)).decode().rstrip("=")


def read_token(token: str, *bound_to: object, reason: str, field: str) -> bytes:
    """The place in a token.

    Args:
        token: As the caller sent it.
        bound_to: What the token must have been written for.
        reason: Of the error: PAGE_TOKEN_INVALID or RESUME_TOKEN_INVALID.
        field: Of the request, for the message.

    Raises:
        ServiceError: What is no token, is damaged, or was written for another request.
    """
    body = _decoded(token)
    if body is None:
        raise ServiceError(reason, f"{field} is not a token of this service; send it as it was received", field=field)
    if body[1 : 1 + _DIGEST_BYTES] != _digest(bound_to):
        raise foreign_token(reason, field)
    return body[1 + _DIGEST_BYTES :]


def foreign_token(reason: str, field: str) -> ServiceError:
    """The error for a token that does not fit the request."""
    return ServiceError(
        reason,
        f"{field} belongs to another request: send it with the same other fields, or leave it out to start again",
        field=field,
    )


def _decoded(token: str) -> bytes | None:
    """The body of a token that is whole and of this version."""
    try:
        text = token.encode("ascii")
        data = base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if len(body) <= _DIGEST_BYTES or body[:1] != _VERSION or check != _check(body):
        return None
    return body


def _check(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(_CHECK_BYTES, "little")


def _digest(bound_to: tuple[object, ...]) -> bytes:
    return hashlib.sha256(json.dumps(bound_to).encode()).digest()[:_DIGEST_BYTES]

"""Page and resume tokens: a position, bound to the request it belongs to.

A token holds no secret and no right: it is opaque so that callers do not build on its form. It carries a digest of the
request's other fields and of what is read, so that it fits the same request on any server, for as long as that exists.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import struct
import zlib

from services.common.errors import ServiceError

_LAYOUT = struct.Struct("<BQ14s")
_VERSION = 1


def write_token(position: int, *bound_to: object) -> str:
    """A token for a position within what `bound_to` says."""
    body = _LAYOUT.pack(_VERSION, position, _digest(bound_to))
    return base64.urlsafe_b64encode(body + struct.pack("<I", zlib.crc32(body))).decode()


def read_token(token: str, *bound_to: object, reason: str, field: str, limit: int | None = None) -> int:
    """The position in a token.

    Args:
        token: As the caller sent it.
        bound_to: What the token must have been written for.
        reason: Of the error: PAGE_TOKEN_INVALID or RESUME_TOKEN_INVALID.
        field: Of the request, for the message.
        limit: The highest position that there can be.
    """
    body = _decode(token)
    if body is None:
        raise ServiceError(reason, f"{field} is not a token of this service; send it as it was received", field=field)
    version, position, digest = _LAYOUT.unpack(body)
    if version != _VERSION or digest != _digest(bound_to) or (limit is not None and position > limit):
        raise ServiceError(
            reason,
            f"{field} belongs to another request: send it with the same other fields, or leave it out to start again",
            field=field,
        )
    return int(position)


def _decode(token: str) -> bytes | None:
    try:
        data = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    body, check = data[:-4], data[-4:]
    if len(body) != _LAYOUT.size or struct.pack("<I", zlib.crc32(body)) != check:
        return None
    return body


def _digest(bound_to: tuple[object, ...]) -> bytes:
    return hashlib.sha256(json.dumps(bound_to).encode()).digest()[:14]

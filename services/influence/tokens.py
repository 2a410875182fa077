"""Page and resume tokens of this service: the position of a row, bound to the request it belongs to."""

from __future__ import annotations

import struct

from services.common import tokens

_POSITION = struct.Struct("<Q")


def write_token(position: int, *bound_to: object) -> str:
    """A token for a position within what `bound_to` says."""
    return tokens.write_token(_POSITION.pack(position), *bound_to)


def read_token(token: str, *bound_to: object, reason: str, field: str, limit: int | None = None) -> int:
    """The position in a token.

    Args:
        token: As the caller sent it.
        bound_to: What the token must have been written for.
        reason: Of the error: PAGE_TOKEN_INVALID or RESUME_TOKEN_INVALID.
        field: Of the request, for the message.
        limit: The highest position that there can be.
    """
    place = tokens.read_token(token, *bound_to, reason=reason, field=field)
    position = int(_POSITION.unpack(place)[0]) if len(place) == _POSITION.size else None
    if position is None or (limit is not None and position > limit):
        raise tokens.foreign_token(reason, field)
    return position

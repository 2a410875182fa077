"""Pages of a listing by name: a token is the last name of the page before, wrapped so that its form stays ours."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import TYPE_CHECKING

from services.common.errors import ServiceError
from services.embedding.names import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_PAGE, LARGEST_PAGE = 50, 500


def page_of(names: Sequence[str], *, parent: str, size: int, token: str) -> tuple[Sequence[str], str]:
    """The names of a page, and the token of the next one (empty: there is none).

    A listing that changes meanwhile neither repeats nor loses what was there all the time.

    Args:
        names: All names, in order.
        parent: What is listed; a token only fits the parent it was written for.
        size: 0 means DEFAULT_PAGE; more than LARGEST_PAGE means that.
        token: Of the page before; empty for the first.

    Raises:
        ServiceError: ARGUMENT_INVALID, PAGE_TOKEN_INVALID.
    """
    if size < 0:
        raise invalid("page_size", f"{size} is below 0")
    after = _read(token, parent) if token else ""
    rest = [name for name in names if name > after]
    page = rest[: min(size or DEFAULT_PAGE, LARGEST_PAGE)]
    return page, _write(page[-1], parent) if len(page) < len(rest) else ""


def _write(name: str, parent: str) -> str:
    body = name.encode()
    return base64.urlsafe_b64encode(_check(body, parent) + body).decode()


def _read(token: str, parent: str) -> str:
    try:
        data = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        if data[:4] == _check(data[4:], parent):
            return data[4:].decode()
    except (binascii.Error, ValueError):
        pass
    raise ServiceError(
        "PAGE_TOKEN_INVALID",
        "page_token is not one of this listing: send next_page_token as it was received, with the same parent, "
        "or leave it out to start again",
        field="page_token",
    )


def _check(body: bytes, parent: str) -> bytes:
    return zlib.crc32(parent.encode() + b"\0" + body).to_bytes(4, "little")

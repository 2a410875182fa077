"""Pages of a listing by name; a token holds the last name of the page before. Pages are bounded in bytes, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from services.common.paging import page_size
from services.common.tokens import read_token, write_token

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_PAGE, LARGEST_PAGE = 50, 500
MAX_PAGE_BYTES = 2 << 20
"""After which a page ends early: clients take messages of 4 MiB by default."""

MessageT = TypeVar("MessageT", bound=Message)


def page_of(
    names: Sequence[str], *, parent: str, size: int, token: str, resource: Callable[[str], MessageT]
) -> tuple[list[MessageT], str]:
    """The resources of a page, and the token of the next one (empty: there is none).

    A listing that changes meanwhile neither repeats nor loses what was there all the time.

    Args:
        names: All names, in order.
        parent: What is listed; a token only fits the parent it was written for.
        size: 0 means DEFAULT_PAGE; more than LARGEST_PAGE means that.
        token: Of the page before; empty for the first.
        resource: By its name.

    Raises:
        ServiceError: ARGUMENT_INVALID, PAGE_TOKEN_INVALID.
    """
    most = page_size(size, default=DEFAULT_PAGE, largest=LARGEST_PAGE)
    after = read_token(token, parent, reason="PAGE_TOKEN_INVALID", field="page_token").decode() if token else ""
    rest = [name for name in names if name > after]
    page: list[MessageT] = []
    held = 0
    for name in rest[:most]:
        page.append(resource(name))
        held += page[-1].ByteSize()
        if held >= MAX_PAGE_BYTES:
            break
    return page, write_token(rest[len(page) - 1].encode(), parent) if len(page) < len(rest) else ""

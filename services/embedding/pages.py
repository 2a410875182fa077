"""Pages of a listing by name; a token holds the last name of the page before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.common.paging import page_size
from services.common.tokens import read_token, write_token

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
    most = page_size(size, default=DEFAULT_PAGE, largest=LARGEST_PAGE)
    after = read_token(token, parent, reason="PAGE_TOKEN_INVALID", field="page_token").decode() if token else ""
    rest = [name for name in names if name > after]
    page = rest[:most]
    return page, write_token(page[-1].encode(), parent) if len(page) < len(rest) else ""

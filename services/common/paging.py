"""The size of a page, by the rules that every listing has."""

from __future__ import annotations

from services.common.names import invalid


def page_size(requested: int, *, default: int, largest: int, field: str = "page_size") -> int:
    """0 means `default`; more than `largest` means `largest`. Raises ARGUMENT_INVALID below 0."""
    if requested < 0:
        raise invalid(field, f"{requested} is below 0")
    return min(requested or default, largest)

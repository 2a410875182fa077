"""Options that take one word of an enumeration."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import click


def choice_option(
    *names: str,
    kind: type[StrEnum],
    default: StrEnum | None = None,
    help: str,  # noqa: A002 - as click calls it
) -> Callable[[Any], Any]:
    """An option whose words are the values of `kind`; the command gets the member. Required when it has no default."""

    def member(_context: click.Context, _option: click.Parameter, value: str) -> StrEnum:
        return kind(value)

    return click.option(
        *names,
        type=click.Choice([member.value for member in kind], case_sensitive=False),
        callback=member,
        help=help,
        **({"required": True} if default is None else {"default": default.value, "show_default": True}),
    )

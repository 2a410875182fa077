"""This machine's disk when it does not take what it should."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from services.common.errors import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns what the operating system says of the state folder into RESOURCE_PROBLEM."""
    try:
        yield
    except OSError as error:
        raise ServiceError(
            "RESOURCE_PROBLEM", f"the state folder of the server cannot be used: {error.strerror or error}"
        ) from error

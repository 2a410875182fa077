"""Names from processes that are not trusted, as labels: few, short and plain."""

from __future__ import annotations

import re

OTHER = "other"

_PLAIN = re.compile(r"[a-z][a-z0-9_]{0,31}")


class BoundedNames:
    """Lets the first `most` plain names through; all others are `other`."""

    def __init__(self, *, most: int = 32) -> None:
        self._most = most
        self._known: set[str] = set()

    def label(self, name: str) -> str:
        """The name, or OTHER."""
        if name in self._known:
            return name
        if len(self._known) >= self._most or not _PLAIN.fullmatch(name):
            return OTHER
        self._known.add(name)
        return name

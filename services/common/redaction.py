"""What logs never tell: secrets of this process, and what in a text looks like credentials."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

_MASK = "***"
_MIN_SECRET = 4
"""Shorter values are words of the language as well, and would blacken every line."""

_IN_A_TEXT = (
    ("@", re.compile(r"(?<=://)[^/\s@'\"]+@"), f"{_MASK}@"),  # user and password in a URL
    ("?", re.compile(r"(?<=\S)\?[^\s'\"<>]*=[^\s'\"<>]*"), f"?{_MASK}"),  # the query of a URL: a presigned one is a key
    ("bearer", re.compile(r"\b(Bearer)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {_MASK}"),
    ("basic", re.compile(r"\b(Basic)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {_MASK}"),
)
"""What a text must hold in lower case, else it is not searched: most texts of most lines hold none."""


_MOST_LEARNT = 60
_learnt: list[str] = []


def learn_secrets(*secrets: str | None) -> None:
    """Mask these too from now on, in every text of this process: keys that were read while it runs.

    The last 60 are known, so those that were replaced a while ago are masked as well.
    """
    _learnt.extend(secret for secret in secrets if secret and len(secret) >= _MIN_SECRET and secret not in _learnt)
    del _learnt[:-_MOST_LEARNT]


def redactor(secrets: Collection[str]) -> Callable[[object], object]:
    """A function that cleans a text, or the texts in a list or a dictionary, and returns other values as they are.

    Args:
        secrets: Values that this process knows and must not tell.
    """
    known = sorted((secret for secret in secrets if len(secret) >= _MIN_SECRET), key=len, reverse=True)

    def clean(value: object) -> object:
        match value:
            case str():
                return _clean(value, known)
            case dict():
                return {key: clean(item) for key, item in value.items()}
            case list() | tuple():
                return [clean(item) for item in value]
            case None | bool() | int() | float():
                return value
            case _:
                return _clean(str(value), known)

    return clean


def _clean(text: str, secrets: list[str]) -> str:
    for secret in (*secrets, *tuple(_learnt)):
        text = text.replace(secret, _MASK)
    lower = text.lower()
    for needle, pattern, replacement in _IN_A_TEXT:
        if needle in lower:
            text = pattern.sub(replacement, text)
    return text

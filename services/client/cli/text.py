"""Text from a server, made safe to print."""

from __future__ import annotations

import unicodedata

_UNSAFE = frozenset({"Cc", "Cs", "Co", "Zl", "Zp"})
# Marks that reorder the text around them: a label must not be able to rewrite the line it stands in.
_REORDERING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """The text with everything that could steer a terminal written as an escape in ASCII."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char in _REORDERING or unicodedata.category(char) in _UNSAFE:
        return f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}"
    return char

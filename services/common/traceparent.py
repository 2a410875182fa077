"""The W3C `traceparent` header: how a trace goes from one process to the next, also where no tracer is installed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

HEADER = "traceparent"

_FORM = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MAX_LENGTH = 512


@dataclass(frozen=True, kw_only=True)
class TraceParent:
    """A place in a trace: the ids in lower-case hex, and whether the trace is recorded."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """The header's value, of this or a later version; None when it is not one, as the standard demands."""
        match = _FORM.fullmatch(text) if text is not None and len(text) <= _MAX_LENGTH else None
        if match is None or ((text or "").startswith("00-") and match[4]):
            return None
        return cls(trace_id=match[1], span_id=match[2], sampled=bool(int(match[3], 16) & 1))

    @classmethod
    def among(cls, metadata: Iterable[tuple[str, str | bytes]]) -> Self | None:
        """That of a call's metadata; None where there is none, or more than one."""
        values = [value for key, value in metadata if key == HEADER and isinstance(value, str)]
        return cls.parse(values[0]) if len(values) == 1 else None

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

"""The one error of the round trip."""

from __future__ import annotations


class RoundTripError(Exception):
    """A file cannot be used; the message names it, with line and field, and says what to do."""

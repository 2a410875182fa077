"""When certificates end. The standard library decodes those of a peer only, and this is all that is asked of ours."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_EXPLICIT_VERSION = 0xA0
_FORMS = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""UTCTime, which reaches to 2049, and GeneralizedTime, as RFC 5280 has them."""


def first_end(pem: bytes) -> float:
    """When the first of the certificates in a PEM file ends, in seconds since 1970; not a number where there are none.

    Raises:
        ValueError: What stands there is no certificate.
    """
    ends = (_end(ssl.PEM_cert_to_DER_cert(found)) for found in _PEM.findall(pem.decode("ascii", "replace")))
    return min(ends, default=float("nan"))


def _end(der: bytes) -> float:
    """RFC 5280, 4.1: version (may be left out), serial number, signature, issuer, validity (from, until), ..."""
    try:
        ((_, certificate),) = _elements(der)
        _, to_be_signed = next(_elements(certificate))
        fields = [content for tag, content in _elements(to_be_signed) if tag != _EXPLICIT_VERSION]
        _, (tag, until) = _elements(fields[3])
        return datetime.strptime(until.decode(), _FORMS[tag]).replace(tzinfo=UTC).timestamp()
    except (LookupError, StopIteration, ValueError) as error:
        raise ValueError("it holds what is no certificate") from error


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of one DER element after the other."""
    place = 0
    while place < len(data):
        tag, length, place = data[place], data[place + 1], place + 2
        if length & 0x80:
            size = length & 0x7F
            length, place = int.from_bytes(data[place : place + size], "big"), place + size
        if place + length > len(data):
            raise ValueError("an element is cut off")
        yield tag, data[place : place + length]
        place += length

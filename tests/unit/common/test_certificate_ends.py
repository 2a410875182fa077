from __future__ import annotations

import math
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from services.common.certificate_ends import first_end
from tests.pki import Authority


def at(year: int, month: int = 1, day: int = 2) -> datetime:
    return datetime(year, month, day, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("until", [at(2030), at(2049, 12, 31), at(2050), at(9999, 12, 31)], ids=str)
def test_the_end_of_a_certificate_is_what_the_library_says(tmp_path: Path, until: datetime) -> None:
    """Years from 2050 on are written in another form."""
    pem = Authority(tmp_path).server(until=until).certificate.read_bytes()
    assert first_end(pem) == until.timestamp()
    assert first_end(pem) == x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def test_of_several_the_first_to_end_counts(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ends = [at(2031), at(2029), at(2033)]
    pems = [authority.server(f"s{end.year}", until=end).certificate.read_text() for end in ends]
    assert first_end("# a comment\n".join(pems).encode()) == min(ends).timestamp()


def test_one_that_has_ended_is_told_all_the_same(tmp_path: Path) -> None:
    until = at(2001)
    assert first_end(Authority(tmp_path).server(until=until).certificate.read_bytes()) == until.timestamp()


def test_where_there_is_none_there_is_no_end(tmp_path: Path) -> None:
    assert math.isnan(first_end(b""))
    assert math.isnan(first_end(Authority(tmp_path).server().key.read_bytes()))


@given(data=st.binary(max_size=100), place=st.integers(0, 10**6))
def test_what_is_damaged_is_told_or_read(data: bytes, place: int, whole: bytes) -> None:
    """Nothing but ValueError, whatever stands there."""
    damaged = bytearray(whole)
    where = place % len(damaged)
    damaged[where : where + len(data)] = data
    for pem in (ssl.DER_cert_to_PEM_cert(bytes(damaged)), ssl.DER_cert_to_PEM_cert(bytes(damaged[:where]))):
        with suppress(ValueError):
            assert isinstance(first_end(pem.encode()), float)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A certificate in DER."""
    pem = Authority(tmp_path_factory.mktemp("pki")).server().certificate.read_text()
    return ssl.PEM_cert_to_DER_cert(pem)

from __future__ import annotations

import base64
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import ServiceError
from services.common.paging import page_size
from services.common.tokens import read_token, write_token


def read(token: str, *bound_to: object, reason: str = "PAGE_TOKEN_INVALID") -> bytes:
    return read_token(token, *bound_to, reason=reason, field="page_token")


@given(st.binary(max_size=300), st.text(), st.integers())
def test_a_token_gives_back_its_place(place: bytes, text: str, number: int) -> None:
    token = write_token(place, "jobs", text, number)
    assert read(token, "jobs", text, number) == place
    assert token.replace("-", "").replace("_", "").isalnum()
    assert token.isascii()


@given(st.text() | st.binary(max_size=60).map(lambda data: base64.urlsafe_b64encode(data).decode()))
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ServiceError, match="page_token is not a token of this service") as caught:
        read(text, "jobs")
    assert caught.value.reason == "PAGE_TOKEN_INVALID"
    assert caught.value.metadata == {"field": "page_token"}


@pytest.mark.parametrize("size", range(4))
def test_a_damaged_token_is_refused_wherever_the_damage_is(size: int) -> None:
    token = write_token(b"x" * size, "jobs")
    for place in range(len(token)):
        for wrong in (token[:place] + chr(ord(token[place]) ^ 1) + token[place + 1 :], token[:place]):
            if wrong != token:
                with pytest.raises(ServiceError, match="is not a token"):
                    read(wrong, "jobs")


@pytest.mark.parametrize(
    "other", [(), ("jobs",), ("jobs", "a", "c"), ("jobs", "ab", ""), ("pairs", "a", "b"), ("jobs", ["a", "b"])]
)
def test_a_token_of_another_request_is_refused(other: tuple[object, ...]) -> None:
    token = write_token(b"17", "jobs", "a", "b")
    with pytest.raises(ServiceError, match="page_token belongs to another request") as caught:
        read(token, *other, reason="RESUME_TOKEN_INVALID")
    assert caught.value.reason == "RESUME_TOKEN_INVALID"


def test_another_process_reads_the_token() -> None:
    program = (
        "from services.common.tokens import read_token; import sys; "
        "print(read_token(sys.argv[1], 'jobs', 'p', reason='PAGE_TOKEN_INVALID', field='page_token'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, write_token(b"17", "jobs", "p")], check=True, capture_output=True, text=True
    )
    assert done.stdout == "b'17'\n"


@pytest.mark.parametrize(("requested", "size"), [(0, 50), (1, 1), (500, 500), (501, 500), (2**31 - 1, 500)])
def test_page_sizes(requested: int, size: int) -> None:
    assert page_size(requested, default=50, largest=500) == size


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(ServiceError, match="page_size: -1 is below 0") as caught:
        page_size(-1, default=50, largest=500)
    assert caught.value.reason == "ARGUMENT_INVALID"

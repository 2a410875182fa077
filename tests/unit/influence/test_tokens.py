from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import ServiceError
from services.influence.tokens import read_token, write_token


def read(token: str, *bound_to: object, limit: int | None = None) -> int:
    return read_token(token, *bound_to, reason="RESUME_TOKEN_INVALID", field="resume_token", limit=limit)


@given(st.integers(0, 2**64 - 1), st.text())
def test_a_token_gives_back_its_position(position: int, bound_to: str) -> None:
    token = write_token(position, "stream", bound_to)
    assert read(token, "stream", bound_to) == position
    assert token.isascii()
    assert "=" not in token


@given(st.text())
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ServiceError, match="resume_token is not a token of this service") as caught:
        read(text, "stream")
    assert caught.value.reason == "RESUME_TOKEN_INVALID"


def test_a_damaged_token_is_refused_whichever_byte_it_is() -> None:
    token = write_token(17, "stream")
    data = base64.urlsafe_b64decode(token)
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(ServiceError, match="is not a token"):
            read(base64.urlsafe_b64encode(damaged).decode(), "stream")
    with pytest.raises(ServiceError, match="is not a token"):
        read(token[:-4], "stream")


@pytest.mark.parametrize("other", [("stream",), ("stream", "a", "c"), ("stream", "ab", ""), ("list", "a", "b")])
def test_a_token_of_another_request_is_refused(other: tuple[str, ...]) -> None:
    token = write_token(17, "stream", "a", "b")
    with pytest.raises(ServiceError, match="resume_token belongs to another request"):
        read(token, *other)


def test_a_position_past_the_end_is_refused() -> None:
    token = write_token(17, "stream")
    assert read(token, "stream", limit=17) == 17
    with pytest.raises(ServiceError, match="belongs to another request"):
        read(token, "stream", limit=16)

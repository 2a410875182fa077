from __future__ import annotations

import base64

import pytest
from eif.embedding.v1.resources_pb2 import Model

from services.common.errors import ServiceError
from services.embedding.pages import LARGEST_PAGE, MAX_PAGE_BYTES, page_of

NAMES = [f"p/models/m{number:04d}" for number in range(1200)]


def named(name: str) -> Model:
    return Model(name=name)


def listed(names: list[str], *, parent: str = "p/models", size: int = 5, token: str = "") -> tuple[list[str], str]:
    page, following = page_of(names, parent=parent, size=size, token=token, resource=named)
    return [model.name for model in page], following


def pages(names: list[str], size: int) -> list[list[str]]:
    found, token = [], ""
    while True:
        page, token = listed(names, size=size, token=token)
        found.append(page)
        if not token:
            return found


@pytest.mark.parametrize(("size", "first"), [(0, 50), (1, 1), (7, 7), (500, 500), (100_000, LARGEST_PAGE)])
def test_pages_hold_every_name_once(size: int, first: int) -> None:
    found = pages(NAMES, size)
    assert len(found[0]) == first
    assert [name for page in found for name in page] == NAMES


def test_an_exact_last_page_has_no_token() -> None:
    assert len(pages(NAMES[:100], 50)) == 2
    assert pages([], 5) == [[]]


def test_changes_meanwhile_neither_repeat_nor_lose_what_stays() -> None:
    page, token = listed(NAMES[:10])
    later = [name for name in NAMES[:10] if name != page[-1]] + ["p/models/z"]
    rest, _ = listed(later, size=50, token=token)
    assert rest == [*NAMES[5:10], "p/models/z"]


@pytest.mark.parametrize("token", ["x", "ü", "====", base64.urlsafe_b64encode(b"0000p/models/m0001").decode()])
def test_a_token_that_was_not_given_out_is_refused(token: str) -> None:
    with pytest.raises(ServiceError, match="page_token") as caught:
        listed(NAMES, token=token)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_a_token_of_another_listing_is_refused() -> None:
    _, token = listed(NAMES)
    with pytest.raises(ServiceError) as caught:
        listed(NAMES, parent="p/indexes", token=token)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ServiceError, match="page_size: -1"):
        listed(NAMES, size=-1)


def test_large_resources_make_small_pages() -> None:
    def large(name: str) -> Model:
        return Model(name=name, uri="x" * (MAX_PAGE_BYTES // 4))

    first, token = page_of(NAMES[:9], parent="p/models", size=0, token="", resource=large)
    second, rest = page_of(NAMES[:9], parent="p/models", size=0, token=token, resource=large)
    assert (len(first), len(second)) == (4, 4)
    assert [model.name for model in (*first, *second)] == NAMES[:8]
    assert rest

from __future__ import annotations

import pytest

from services.client.batching import batches


@pytest.mark.parametrize(
    ("sizes", "max_items", "max_bytes", "expected"),
    [
        ([], 3, 10, []),
        ([1, 1, 1, 1], 3, 10, [[1, 1, 1], [1]]),
        ([4, 4, 4], 3, 10, [[4, 4], [4]]),
        ([20, 1, 20], 3, 10, [[20], [1], [20]]),
        ([1] * 5, 0, 100, [[1, 1, 1, 1, 1]]),
        ([10, 0, 0], 3, 10, [[10, 0, 0]]),
    ],
)
def test_batches_are_bounded_and_lose_nothing(
    sizes: list[int], max_items: int, max_bytes: int, expected: list[list[int]]
) -> None:
    assert list(batches(sizes, max_items=max_items, max_bytes=max_bytes, bytes_of=lambda size: size)) == expected

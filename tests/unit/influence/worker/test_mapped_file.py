from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from services.common.errors import ServiceError
from services.influence.worker.mapped_file import mapped_file


def test_an_array_in_a_file(tmp_path: Path) -> None:
    array = mapped_file(tmp_path / "x", np.float32, (3, 2))
    assert array.tolist() == [[0, 0]] * 3
    array[1] = 7
    assert isinstance(array, np.memmap)
    array.flush()
    assert np.fromfile(tmp_path / "x", dtype=np.float32).tolist() == [0, 0, 7, 7, 0, 0]


def test_its_blocks_are_taken_at_once(tmp_path: Path) -> None:
    mapped_file(tmp_path / "x", np.int64, (1000, 100))
    assert (tmp_path / "x").stat().st_blocks * 512 >= 800_000


def test_an_empty_array(tmp_path: Path) -> None:
    assert mapped_file(tmp_path / "x", np.int64, (0, 5)).shape == (0, 5)


def test_a_disk_without_room_is_told_before_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="bytes of disk for x, but the disk") as caught:
        mapped_file(tmp_path / "x", np.float32, (2**48,))
    assert caught.value.reason == "SCRATCH_FULL"
    assert caught.value.metadata["needed_bytes"] == str(2**50)

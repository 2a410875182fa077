"""Features in files, read as they are needed: nothing stays in memory, nothing is mapped."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from eif_engine.errors import InvalidInput


@dataclass(frozen=True)
class _Shard:
    path: Path
    rows: int
    offset: int


class FeatureShards:
    """Features (N, F) in `.npy` files of float32, one after the other.

    A range of rows is read into fresh memory: what many of them took does not add up, as pages of a mapped file do.

    Args:
        paths: The files, in the order of their rows.

    Raises:
        InvalidInput: A file is not an array (n, F) of little-endian float32 in C order, or is shorter than it says.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        shards = [_open(path) for path in paths]
        widths = {width for _, width in shards}
        if len(widths) != 1:
            raise InvalidInput(f"shards must have equally many columns each, got {sorted(widths)}")
        self._shards = [shard for shard, _ in shards]
        self._dim = widths.pop()
        self._starts = list(accumulate((shard.rows for shard in self._shards), initial=0))

    def __len__(self) -> int:
        """N."""
        return self._starts[-1]

    @property
    def shape(self) -> tuple[int, int]:
        """N and F."""
        return len(self), self._dim

    def __getitem__(self, rows: slice) -> Tensor:
        """Features (n, F) of a range of rows; step 1 only."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"rows must be a range with step 1, got {rows}")
        x_NF = np.empty((max(0, stop - start), self._dim), dtype=np.float32)
        done = 0
        while done < len(x_NF):
            done += self._read(start + done, x_NF[done:])
        return torch.from_numpy(x_NF)

    def _read(self, row: int, into_NF: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> int:
        """Fill what one shard has of the rows from `row` on; return how many."""
        place = bisect_right(self._starts, row) - 1
        shard, first = self._shards[place], row - self._starts[place]
        count = min(len(into_NF), shard.rows - first)
        size = count * self._dim * 4
        with shard.path.open("rb", buffering=0) as file:
            file.seek(shard.offset + first * self._dim * 4)
            view = into_NF[:count].data.cast("B")
            read = 0
            while read < size:
                got = file.readinto(view[read:])
                if not got:
                    raise InvalidInput(f"{shard.path}: ends before its {shard.rows} rows do", uri=str(shard.path))
                read += got
        return count


def _open(path: Path) -> tuple[_Shard, int]:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            offset = file.tell()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path}: cannot be read as a .npy array: {error}", uri=str(path)) from error
    if len(shape) != 2 or fortran or dtype != np.dtype("<f4"):
        raise InvalidInput(f"{path}: is {dtype} {shape}; (n, F) of float32 in C order is needed", uri=str(path))
    return _Shard(path, shape[0], offset), shape[1]

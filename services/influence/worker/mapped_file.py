"""Arrays in files of the job's folder: larger than memory, and on a disk that is known to hold them."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.common.errors import ServiceError

ScalarT = TypeVar("ScalarT", bound=np.generic)

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def mapped_file(path: Path, dtype: type[ScalarT], shape: tuple[int, ...]) -> NDArray[ScalarT]:
    """A new array of zeros in a file.

    Its disk blocks are taken at once: a disk that fills up later would end the process with SIGBUS.

    Raises:
        ServiceError: SCRATCH_FULL when the disk has no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if not size:  # an empty file cannot be mapped
        return np.zeros(shape, dtype=dtype)
    with path.open("w+b") as file:
        _reserve(file.fileno(), path, size)
        mapped: np.memmap[Any, np.dtype[ScalarT]] = np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    return mapped


def _reserve(handle: int, path: Path, size: int) -> None:
    try:
        os.posix_fallocate(handle, 0, size)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        free = shutil.disk_usage(path.parent).free
        raise ServiceError(
            "SCRATCH_FULL",
            f"the job needs {size:,} bytes of disk for {path.name}, but the disk of its scratch folder has {free:,}: "
            "make room on it, or use fewer samples",
            needed_bytes=size,
            free_bytes=free,
        ) from error

"""Writing results of commands, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from eif_engine.errors import InvalidInput


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an `.npz`. Raises InvalidInput where it cannot be written."""
    with _whole(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy types its own options into the same keywords


def write_text(path: Path, text: str) -> None:
    """Write UTF-8. Raises InvalidInput where it cannot be written."""
    with _whole(path) as file:
        file.write(text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes. Raises InvalidInput where it cannot be written."""
    with _whole(path) as file:
        file.write(data)


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InvalidInput(f"{path}: cannot be written: {error.strerror}", uri=str(path)) from error

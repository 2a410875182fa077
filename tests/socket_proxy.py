"""A proxy between servers and a database on a Unix socket, which can swallow everything as a network does."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.loop_thread import LoopThread

NAME = ".s.PGSQL.5432"


class SocketProxy:
    """Forwards the socket of PostgreSQL in `folder` to the one in `target`.

    Args:
        folder: Whose path is short: that of a socket may have 107 bytes.
        target: Folder of the database's own socket.

    Attributes:
        folder: The same.
    """

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder, self._target = folder, target / NAME
        self._thread = LoopThread()
        self._open = self._thread.run(_opened())
        self._server = self._thread.run(asyncio.start_unix_server(self._serve, folder / NAME))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.run(self._close())
        self._thread.__exit__(kind, error, traceback)

    def part(self) -> None:
        """From now on nothing gets through, in either direction; connections stay open, and can be made."""
        self._thread.loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        """All gets through again, also what was sent meanwhile."""
        self._thread.loop.call_soon_threadsafe(self._open.set)

    async def _close(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._open.wait()
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._target)
        await asyncio.gather(self._pump(reader, upstream_writer), self._pump(upstream_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


async def _opened() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event

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
        self._connections: set[asyncio.Task[None]] = set()
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
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        upstream: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            upstream_reader, upstream = await asyncio.open_unix_connection(self._target)
            await asyncio.gather(self._pump(reader, upstream), self._pump(upstream_reader, writer))
        finally:
            self._connections.discard(connection)
            await _closed(*(each for each in (writer, upstream) if each is not None))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


async def _closed(*writers: asyncio.StreamWriter) -> None:
    for writer in writers:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def _opened() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event

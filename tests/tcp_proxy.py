"""A TCP proxy on the loopback that cuts connections, or lets nothing through, when told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

from tests.loop_thread import LoopThread


class TcpProxy:
    """Forwards `port` to `target_port` of the loopback.

    Attributes:
        target_port: May be changed; None closes new connections at once.
        connections: Connections forwarded so far.
        from_server: Bytes that have come from the server so far.
    """

    def __init__(self, target_port: int | None) -> None:
        self.target_port = target_port
        self.connections = 0
        self.from_server = 0
        self._budget: int | None = None
        self._then_target: int | None = None
        self._cut_done = threading.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = LoopThread()
        self._server = self._thread.run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.run(self._close())
        self._thread.__exit__(kind, error, traceback)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Reset every connection."""
        self._thread.run(self._cut())

    def freeze(self) -> None:
        """Let nothing through from now on, and tell nobody: as when a machine or a network is lost."""
        self._thread.loop.call_soon_threadsafe(self._flowing.clear)

    def cut_after(self, num_bytes: int, *, then_target: int | None) -> None:
        """Reset every connection once so many more bytes have come from the server; go on with another target."""
        self._cut_done.clear()
        self._budget = num_bytes
        self._then_target = then_target

    def wait_until_cut(self, timeout: float = 10.0) -> bool:
        """Whether what `cut_after` announced has happened, waiting for it."""
        return self._cut_done.wait(timeout)

    async def _close(self) -> None:
        self._flowing.set()
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.target_port is None:
            writer.transport.abort()
            return
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection(sock=await _connected(self.target_port))
        self._writers |= {writer, upstream_writer}
        await asyncio.gather(
            self._pump(reader, upstream_writer, counted=False), self._pump(upstream_reader, writer, counted=True)
        )
        self._writers -= {writer, upstream_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.from_server += len(data) if counted else 0
                await self._flowing.wait()
                if counted and self._spent(len(data)):
                    self.target_port = self._then_target
                    await self._cut()
                    self._cut_done.set()
                    return
                writer.write(data)
                await writer.drain()
        writer.close()

    def _spent(self, num_bytes: int) -> bool:
        if self._budget is None:
            return False
        self._budget -= num_bytes
        if self._budget > 0:
            return False
        self._budget = None
        return True


async def _connected(port: int) -> socket.socket:
    """With a small buffer here: what this kernel would take ahead counts as held by the server."""
    connection = socket.socket()
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    except BaseException:
        connection.close()
        raise
    return connection

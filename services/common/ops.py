"""The port for whoever runs the server: `/livez`, `/readyz`, `/startupz` and `/metrics` over plain HTTP.

Each is for GET and HEAD, one request a connection. There is nothing to read but this process's own state, and nobody
can hold it: requests are short, every connection has a few seconds, and when there are too many the oldest is closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping

from services.common.errors import ServiceError
from services.common.http_request import BadRequest, read_request
from services.common.metrics import CONTENT_TYPE

CONNECTION_S = 5.0
MAX_CONNECTIONS = 64

Check = Callable[[], Awaitable[str | None]]
"""Says what is wrong; None when nothing is."""

_JSON = "application/json"
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

logger = logging.getLogger(__name__)


class OpsServer:
    """Answers probes and scrapes.

    Args:
        probes: Checks by their names, by path: all must find nothing wrong.
        metrics: Gives the text for `/metrics`.
    """

    def __init__(self, *, probes: Mapping[str, Mapping[str, Check]], metrics: Callable[[], Awaitable[bytes]]) -> None:
        self._probes, self._metrics = probes, metrics
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def start(self, listen: str) -> str:
        """Listen on `host:port`, where port 0 takes a free one; the address with the real port.

        Raises:
            ServiceError: ARGUMENT_INVALID when the address cannot be used.
        """
        host, _, port = listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ServiceError("ARGUMENT_INVALID", f"ops_listen {listen!r} must be host:port", field="ops_listen")
        try:
            self._server = await asyncio.start_server(self._accept, host.strip("[]"), int(port), limit=1 << 12)
        except OSError as error:
            what = f"cannot listen on {listen} for probes and metrics: {error.strerror or error}"
            raise ServiceError("ARGUMENT_INVALID", what, field="ops_listen") from error
        return f"{host}:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop at once."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            oldest = next(iter(self._connections))
            self._connections.pop(oldest).transport.abort()
            oldest.cancel()
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(lambda task: self._connections.pop(task, None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECTION_S):
                await self._answer(reader, writer)
                writer.close()
                await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = "GET"
        try:
            method, path = await read_request(reader)
            status, kind, body = await self._page(path)
        except BadRequest as error:
            status, kind, body = error.status, _JSON, _text({"status": "failed", "error": str(error)})
        writer.write(_head(status, kind, len(body)) + (b"" if method == "HEAD" else body))
        await writer.drain()

    async def _page(self, path: str) -> tuple[int, str, bytes]:
        if path != "/metrics" and path not in self._probes:
            raise BadRequest(404, f"there is {', '.join([*self._probes, '/metrics'])}")
        try:
            return await (self._scraped() if path == "/metrics" else self._probed(self._probes[path]))
        except Exception:
            logger.exception("a request on the ops port failed")
            return 500, _JSON, _text({"status": "failed", "error": "internal error"})

    async def _scraped(self) -> tuple[int, str, bytes]:
        return 200, CONTENT_TYPE, await self._metrics()

    async def _probed(self, checks: Mapping[str, Check]) -> tuple[int, str, bytes]:
        found = {name: await check() for name, check in checks.items()}
        status = 503 if any(found.values()) else 200
        answer = {
            "status": "ok" if status == 200 else "failed",
            "checks": {name: wrong or "ok" for name, wrong in found.items()},
        }
        return status, _JSON, _text(answer)


async def start_ops(server: OpsServer, listen: str | None) -> str | None:
    """Start the server where it is asked for; its address."""
    if listen is None:
        return None
    address = await server.start(listen)
    logger.info("probes and metrics", extra={"fields": {"event": "ops listening", "address": address}})
    return address


def _head(status: int, kind: str, length: int) -> bytes:
    lines = (
        f"HTTP/1.1 {status} {_PHRASES[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {length}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    )
    return "\r\n".join([*lines, "", ""]).encode()


def _text(answer: object) -> bytes:
    return json.dumps(answer).encode() + b"\n"

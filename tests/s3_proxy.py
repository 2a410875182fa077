"""An HTTP proxy in front of an S3 server, which misbehaves as a test asks it to."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import urllib3

from tests.weed import Weed


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to one request instead of a plain forwarding.

    Attributes:
        method: Only requests of this method.
        path: Only requests whose path ends so.
        delay_s: Nothing happens for so long.
        drop: The connection is reset; the server never sees the request.
        status: Answered with it; the server never sees the request.
        code: Of S3, in that answer.
        cut_after: So many bytes of the body are sent, then the connection is reset.
        then: Called after that.
        flip: One bit of the body is another one.
        lose_answer: The server gets the request, but the connection is closed before its answer.
        ignore_headers: Headers of a GET that the server acts as if it did not know.
        answer_headers: Headers of the answer that are replaced.
    """

    method: str = "GET"
    path: str = ""
    delay_s: float = 0.0
    drop: bool = False
    status: int | None = None
    code: str = ""
    cut_after: int | None = None
    then: Callable[[], object] | None = None
    flip: bool = False
    lose_answer: bool = False
    ignore_headers: tuple[str, ...] = ()
    answer_headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client asks for, and by which key: empty where it is anonymous."""

    method: str
    path: str
    access_key: str


Rule = Callable[[Request], Fault]
"""What happens to a request."""


def calm(_request: Request) -> Fault:
    """Nothing."""
    return Fault()


class S3Proxy:
    """Forwards to `weed`; faults apply one request each, in their order; `rule` decides on all the others.

    Attributes:
        requests: Method and path of every request so far.
    """

    def __init__(self, weed: Weed, *faults: Fault) -> None:
        self.target = weed.endpoint
        self.faults = deque(faults)
        self.rule: Rule = calm
        self._weed = weed
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(10), maxsize=16)
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.pool.clear()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def methods(self) -> list[str]:
        """Methods of the requests so far."""
        return [method for method, _ in self.requests]

    def presigned(self, path: str) -> str:
        """A URL of the object that needs no signed header."""
        bucket, _, key = unquote(path.partition("?")[0]).lstrip("/").partition("/")
        return self._weed.client().get_presigned_url("GET", bucket, key)

    def next_fault(self, request: Request) -> Fault:
        with self.lock:
            self.requests.append((request.method, request.path))
            if self.faults and self.faults[0].method == request.method and _names(request.path, self.faults[0].path):
                return self.faults.popleft()
        return self.rule(request)


def _names(path: str, end: str) -> bool:
    return unquote(path.partition("?")[0]).endswith(end)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, proxy: S3Proxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of the game."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 5

    def forward(self) -> None:
        assert isinstance(self.server, _Server)
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = proxy.next_fault(Request(method=self.command, path=self.path, access_key=self._access_key()))
        time.sleep(fault.delay_s)
        if fault.drop:
            self._reset()
            return
        if fault.status is not None:
            body = b"" if self.command == "HEAD" else _error(fault.code)
            self._answer(fault.status, {"Content-Type": "application/xml"} | dict(fault.answer_headers), body)
            return
        url, headers = f"http://{proxy.target}{self.path}", dict(self.headers.items())
        if fault.ignore_headers:  # they are signed: ask again in the server's stead, without them
            url = proxy.presigned(self.path)
            kept = {"range", "if-match"} - set(fault.ignore_headers)
            headers = {name: value for name, value in headers.items() if name.lower() in kept}
        answer = proxy.pool.urlopen(
            self.command, url, body=body, headers=headers, redirect=False, decode_content=False, preload_content=True
        )
        if fault.lose_answer:
            self.close_connection = True
            return
        sent = {name: value for name, value in answer.headers.items() if name.lower() != "transfer-encoding"}
        data = _flipped(answer.data) if fault.flip else answer.data
        self._answer(answer.status, sent | dict(fault.answer_headers), data, cut_after=fault.cut_after, then=fault.then)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815  the library's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the library's signature
        """No log."""

    def _access_key(self) -> str:
        """As the signature names it, in a header or in a presigned URL."""
        signed = f"{self.headers.get('Authorization', '')} {unquote(self.path)}"
        found = re.search(r"Credential=([^/]+)/", signed)
        return found[1] if found else ""

    def _answer(
        self,
        status: int,
        headers: dict[str, str],
        body: bytes,
        *,
        cut_after: int | None = None,
        then: Callable[[], object] | None = None,
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name in headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if cut_after is None else body[:cut_after])
        if cut_after is not None:
            if then is not None:
                self.wfile.flush()
                then()
            self._reset()

    def _reset(self) -> None:
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code></Error>".encode() if code else b"<Error/>"


def _flipped(body: bytes) -> bytes:
    """With the last bit of the byte in its middle changed."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body

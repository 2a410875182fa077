"""Reads an HTTP request as far as a probe or a scrape needs: its method and its path."""

from __future__ import annotations

import asyncio
import re

MAX_LINES = 64

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]\r?\n")


class BadRequest(Exception):
    """A request that gets an error; its text goes to the caller."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def read_request(reader: asyncio.StreamReader) -> tuple[str, str]:
    """Method and path, without the query. A body is not read.

    Raises:
        BadRequest: It is not HTTP/1, or is longer than lines of the reader's limit and MAX_LINES of them.
        asyncio.IncompleteReadError: The caller went away.
    """
    match = _REQUEST_LINE.fullmatch(await _line(reader))
    if match is None:
        raise BadRequest(400, "this port speaks HTTP/1.1")
    for _ in range(MAX_LINES):
        if not (await _line(reader)).rstrip(b"\r\n"):
            break
    else:
        raise BadRequest(431, f"the request has more than {MAX_LINES} lines")
    method = match[1].decode()
    if method not in {"GET", "HEAD"}:
        raise BadRequest(405, "only GET and HEAD are for this port")
    return method, match[2].decode().partition("?")[0]


async def _line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\n")
    except asyncio.LimitOverrunError:
        raise BadRequest(431, "a line of the request is too long") from None

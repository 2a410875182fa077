"""The verbs of InfluenceService that are about results."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.common.errors import ServiceError
from services.influence.deleted import unless_deleted
from services.influence.job import Job
from services.influence.ledger import Ledger
from services.influence.results import Results, RowPage
from services.influence.tokens import read_token, write_token

if TYPE_CHECKING:  # pyarrow is imported with the first table that is asked for
    from services.influence.stream import RankedChunk

DEFAULT_ROWS = 1_000
MAX_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class PageRequest:
    """Which rows of which table."""

    name: str
    table: str
    query_id: str = ""
    page_size: int = 0
    page_token: str = ""


@dataclass(frozen=True, kw_only=True)
class StreamRequest:
    """Which ranking, from which end, and from where on."""

    name: str
    query_id: str = ""
    helpful_first: bool = False
    max_rows: int = 0
    chunk_rows: int = 0
    resume_token: str = ""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Rows, and what is needed to go on after some of them."""

    rows: RowPage
    offset: int
    bound_to: tuple[object, ...]

    def next_page_token(self, sent: int) -> str:
        """The token of the page after the first `sent` rows of this one; empty at the end."""
        position = self.offset + sent
        return "" if position >= self.rows.total else write_token(position, *self.bound_to)


class ResultService:
    """Pages and streams of tables.

    Args:
        ledger: The jobs.
        results: Their tables.
        stopping: Set when the server stops: streams then end, to be resumed elsewhere.
    """

    def __init__(self, *, ledger: Ledger, results: Results, stopping: asyncio.Event) -> None:
        self._ledger = ledger
        self._results = results
        self._stopping = stopping

    async def page(self, request: PageRequest) -> Page:
        """Rows of a table.

        Raises:
            ServiceError: JOB_NOT_FOUND, PAGE_TOKEN_INVALID, and those of Results.page.
        """
        job = await self._ledger.get(request.name)
        bound_to = ("rows", job.uid, request.table, request.query_id)
        offset = 0
        if request.page_token:
            offset = read_token(request.page_token, *bound_to, reason="PAGE_TOKEN_INVALID", field="page_token")
        count = min(request.page_size or DEFAULT_ROWS, MAX_ROWS)
        async with unless_deleted(self._ledger, request.name):
            rows = await asyncio.to_thread(
                self._results.page, job, request.table, request.query_id, offset=offset, count=count
            )
        return Page(rows=rows, offset=offset, bound_to=bound_to)

    async def chunks(self, request: StreamRequest) -> AsyncGenerator[tuple[RankedChunk, str], None]:
        """A ranking by chunks, each with the token that goes on after it.

        Raises:
            ServiceError: JOB_NOT_FOUND, RESUME_TOKEN_INVALID, SERVER_STOPPING, and those of Results.ranking.
        """
        job = await self._ledger.get(request.name)
        async with unless_deleted(self._ledger, request.name):  # once open, a table stays readable
            ranking = await asyncio.to_thread(self._results.ranking, job, request.query_id)
        from services.influence.stream import read_chunks

        bound_to = _bound_to(job, request, ranking.query_id)
        chunks = read_chunks(
            ranking,
            start=_start(request, bound_to, limit=ranking.span.count),
            end=request.max_rows or ranking.span.count,
            chunk_rows=min(request.chunk_rows or DEFAULT_ROWS, MAX_ROWS),
            helpful_first=request.helpful_first,
        )
        while chunk := await asyncio.to_thread(next, chunks, None):
            if self._stopping.is_set():
                raise ServiceError("SERVER_STOPPING", "this server stops; go on with the last resume_token")
            yield chunk, write_token(chunk.position, *bound_to)


def _bound_to(job: Job, request: StreamRequest, query_id: str) -> tuple[object, ...]:
    return ("stream", job.uid, query_id, request.helpful_first, request.max_rows)


def _start(request: StreamRequest, bound_to: tuple[object, ...], *, limit: int) -> int:
    if not request.resume_token:
        return 0
    return read_token(request.resume_token, *bound_to, reason="RESUME_TOKEN_INVALID", field="resume_token", limit=limit)

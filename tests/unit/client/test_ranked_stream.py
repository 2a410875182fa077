from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2, results_pb2

from services.client.errors import InvalidArgument, StreamCorrupt, Unavailable
from services.client.influence import InfluenceClient
from services.client.reconnect import Reconnect
from services.client.rows import Effect
from services.client.specs import RankOrder
from tests.rankings import ranking_chunks, signed
from tests.scripted_server import Context, ScriptedServer, refuse
from tests.tcp_proxy import TcpProxy

SERVICE = influence_service_pb2.DESCRIPTOR.services_by_name["InfluenceService"]
FAST = Reconnect(first_delay=0.01, max_delay=0.05, patience=5.0)
Chunk = results_pb2.RankedSamplesChunk


class RankingServer(ScriptedServer):
    """Streams `chunks` from the token on.

    `break_after` ends the first calls after so many chunks each; with `linger` a call goes on until it is cancelled.
    """

    def __init__(self, chunks: list[Chunk], *, break_after: tuple[int, ...] = (), linger: bool = False) -> None:
        self.chunks = chunks
        self.linger = linger
        self.breaks = list(break_after)
        super().__init__(SERVICE, {"StreamRankedSamples": self._stream})

    async def _stream(self, request: influence_service_pb2.StreamRankedSamplesRequest, context: Context) -> None:
        start = int(request.resume_token or 1)
        allowed = self.breaks.pop(0) if self.breaks else len(self.chunks) + 1
        for chunk in self.chunks:
            if chunk.first_rank < start:
                continue
            if request.max_rows and chunk.first_rank > request.max_rows:
                break
            if allowed == 0:
                await self.fail(context)
            allowed -= 1
            await context.write(chunk)
        if self.linger:
            await asyncio.Event().wait()

    async def fail(self, context: Context, /) -> None:
        await refuse(context, grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE", "the object store is away")


@pytest.fixture
def long_ranking() -> Iterator[RankingServer]:
    with RankingServer(ranking_chunks(20_000, chunk_rows=100)) as server:
        yield server


@pytest.fixture
def lingering() -> Iterator[RankingServer]:
    with RankingServer(ranking_chunks(100), linger=True) as server:
        yield server


def ids(total: int) -> list[str]:
    return [f"s{rank}" for rank in range(1, total + 1)]


def test_rows_come_in_order_with_effect() -> None:
    with RankingServer(ranking_chunks(25)) as server, InfluenceClient(server.target) as client:
        rows = list(client.stream_ranked_samples("j1", order=RankOrder.HELPFUL))
    assert [row.sample_id for row in rows] == ids(25)
    assert [row.rank for row in rows] == list(range(1, 26))
    assert {row.effect for row in rows[:12]} == {Effect.HARMFUL}
    assert rows[-1].effect is Effect.HELPFUL
    (request,) = server.requests("StreamRankedSamples")
    assert request.name == "projects/default/influenceJobs/j1"
    assert request.order == results_pb2.RANK_ORDER_HELPFUL_FIRST


def test_a_relabel_ranking_has_suggestions_and_no_effect() -> None:
    with RankingServer(ranking_chunks(3, relabel=True)) as server, InfluenceClient(server.target) as client:
        rows = list(client.stream_ranked_samples("j1"))
    assert [row.suggested_label for row in rows] == ["label-2", "label-0", "label-1"]
    assert rows[0].suggested_probability == 0.75
    assert rows[0].effect is None


def test_an_empty_ranking_is_no_error() -> None:
    for chunks in (ranking_chunks(0), []):
        with RankingServer(chunks) as server, InfluenceClient(server.target) as client:
            assert list(client.stream_ranked_samples("j1")) == []


def test_unavailable_in_the_middle_is_resumed_by_token() -> None:
    with (
        RankingServer(ranking_chunks(95), break_after=(0, 3, 0, 1)) as server,
        InfluenceClient(server.target, reconnect=FAST) as client,
    ):
        rows = list(client.stream_ranked_samples("j1", chunk_rows=10))
    assert [row.sample_id for row in rows] == ids(95)
    tokens = [request.resume_token for request in server.requests("StreamRankedSamples")]
    assert tokens == ["", "", "31", "31", "41"]
    assert {request.chunk_rows for request in server.requests("StreamRankedSamples")} == {10}


def test_a_connection_cut_in_the_middle_loses_and_repeats_nothing(long_ranking: RankingServer) -> None:
    with (
        TcpProxy(long_ranking.port) as proxy,
        InfluenceClient(proxy.target, reconnect=FAST) as client,
    ):
        proxy.cut_after(200_000, then_target=long_ranking.port)
        rows = [row.sample_id for row in client.stream_ranked_samples("j1")]
    assert rows == ids(20_000)
    assert proxy.connections == 2
    first, second = long_ranking.requests("StreamRankedSamples")
    assert first.resume_token == ""
    assert int(second.resume_token) > 1


def test_a_restarted_server_goes_on_where_the_old_one_ended(long_ranking: RankingServer) -> None:
    rows = []
    with InfluenceClient(long_ranking.target, reconnect=FAST) as client:
        for row in client.stream_ranked_samples("j1"):
            rows.append(row.sample_id)
            if row.rank == 150:
                long_ranking.stop()
                long_ranking.start()
    assert rows == ids(20_000)
    assert len(long_ranking.requests("StreamRankedSamples")) == 2


def test_a_server_that_ends_too_early_is_asked_again() -> None:
    class StopServing(Exception):
        """Ends the stream with OK."""

    class Short(RankingServer):
        async def _stream(self, request: influence_service_pb2.StreamRankedSamplesRequest, context: Context) -> None:
            with contextlib.suppress(StopServing):
                await super()._stream(request, context)

        async def fail(self, _context: Context, /) -> None:
            raise StopServing

    with (
        Short(ranking_chunks(30), break_after=(2,)) as server,
        InfluenceClient(server.target, reconnect=FAST) as client,
    ):
        assert [row.rank for row in client.stream_ranked_samples("j1")] == list(range(1, 31))
    assert [request.resume_token for request in server.requests("StreamRankedSamples")] == ["", "21"]


def test_it_gives_up_when_the_server_stays_away() -> None:
    impatient = Reconnect(first_delay=0.01, max_delay=0.05, patience=0.3)
    with (
        RankingServer(ranking_chunks(30), break_after=(1, *(0,) * 1000)) as server,
        InfluenceClient(server.target, reconnect=impatient) as client,
    ):
        stream = client.stream_ranked_samples("j1")
        assert [next(stream).rank for _ in range(10)] == list(range(1, 11))
        with pytest.raises(Unavailable, match="the object store is away") as caught:
            next(stream)
    assert caught.value.reason == "STORAGE_UNAVAILABLE"


def test_an_error_that_is_not_a_lost_connection_is_raised_at_once() -> None:
    class Refusing(RankingServer):
        async def fail(self, context: Context, /) -> None:
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "RESUME_TOKEN_INVALID", "not a token", token="x")

    with (
        Refusing(ranking_chunks(30), break_after=(0,)) as server,
        InfluenceClient(server.target) as client,
        pytest.raises(InvalidArgument) as caught,
    ):
        list(client.stream_ranked_samples("j1"))
    assert caught.value.reason == "RESUME_TOKEN_INVALID"
    assert caught.value.metadata == {"token": "x"}
    assert len(server.requests("StreamRankedSamples")) == 1


def damaged_score(chunks: list[Chunk]) -> None:
    chunks[1].scores[3] += 1e-9


def lost_chunk(chunks: list[Chunk]) -> None:
    del chunks[1]


def repeated_chunk(chunks: list[Chunk]) -> None:
    chunks.insert(1, chunks[0])


def short_column(chunks: list[Chunk]) -> None:
    del chunks[1].labels[3:]
    signed(chunks[1])


def another_total(chunks: list[Chunk]) -> None:
    chunks[1].total_rows = 31


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damaged_score, "its checksum is wrong"),
        (lost_chunk, "rank 11 must come next"),
        (repeated_chunk, "rank 11 must come next"),
        (short_column, "its columns differ in length"),
        (another_total, "the ranking had 30 rows, now 31"),
    ],
)
def test_a_chunk_that_breaks_the_promise_is_refused(damage: Callable[[list[Chunk]], None], said: str) -> None:
    chunks = ranking_chunks(30)
    damage(chunks)
    with RankingServer(chunks, linger=True) as server, InfluenceClient(server.target) as client:
        stream = client.stream_ranked_samples("j1")
        assert [row.rank for row in itertools.islice(stream, 10)] == list(range(1, 11))
        with pytest.raises(StreamCorrupt, match=said) as caught:
            next(stream)
        assert server.wait_until_idle()
    assert caught.value.reason == "STREAM_CORRUPT"
    assert caught.value.code is grpc.StatusCode.DATA_LOSS


def ends_of_a_ranking() -> list[Chunk]:
    """Ranks 1 to 20 and 81 to 100 of 100, as the server keeps them for one query."""
    chunks = ranking_chunks(100, query_id="pair:a:b")
    kept = chunks[:2] + chunks[-2:]
    for chunk in kept:
        chunk.total_rows = 40
    return kept


def test_the_ranking_of_one_query_may_have_a_gap() -> None:
    with (
        RankingServer(ends_of_a_ranking(), break_after=(1, 2)) as server,
        InfluenceClient(server.target, reconnect=FAST) as client,
    ):
        ranks = [row.rank for row in client.stream_ranked_samples("j1", query_id="pair:a:b")]
        from_token = [row.rank for row in client.stream_ranked_samples("j1", query_id="pair:a:b", resume_token="21")]
    assert ranks == [*range(1, 21), *range(81, 101)]
    assert from_token == list(range(81, 101))


def test_rows_that_are_missing_for_good_are_noticed() -> None:
    chunks = ends_of_a_ranking()
    del chunks[2]
    with RankingServer(chunks) as server, InfluenceClient(server.target, reconnect=FAST) as client:
        stream = client.stream_ranked_samples("j1", query_id="pair:a:b")
        with pytest.raises(StreamCorrupt, match="the server ended it after 30 of 40 rows"):
            list(stream)
    assert len(server.requests("StreamRankedSamples")) == 2


def test_ranks_of_one_query_never_go_back() -> None:
    chunks = ends_of_a_ranking()
    chunks[2] = chunks[0]
    with RankingServer(chunks) as server, InfluenceClient(server.target) as client:
        stream = client.stream_ranked_samples("j1", query_id="pair:a:b")
        with pytest.raises(StreamCorrupt, match="rank 21 must come next"):
            list(stream)


def test_max_rows_ends_the_stream() -> None:
    with RankingServer(ranking_chunks(95)) as server, InfluenceClient(server.target) as client:
        assert [row.rank for row in client.stream_ranked_samples("j1", max_rows=30)] == list(range(1, 31))


def test_chunks_carry_the_token_that_starts_after_them() -> None:
    with RankingServer(ranking_chunks(35)) as server, InfluenceClient(server.target) as client:
        chunks = client.stream_ranked_samples("j1").chunks()
        first = next(chunks)
        chunks.close()
        assert list(chunks) == []
        rest = [row.rank for row in client.stream_ranked_samples("j1", resume_token=first.resume_token)]
    assert (first.first_rank, len(first), first.total_rows) == (1, 10, 35)
    assert rest == list(range(11, 36))


def test_leaving_the_loop_ends_the_handler(lingering: RankingServer) -> None:
    with InfluenceClient(lingering.target) as client:
        for row in client.stream_ranked_samples("j1"):
            if row.rank == 50:
                break
        assert lingering.wait_until_idle()


def test_an_exception_in_the_loop_ends_the_handler(lingering: RankingServer) -> None:
    def consume(client: InfluenceClient) -> None:
        for row in client.stream_ranked_samples("j1"):
            raise LookupError(row.sample_id)

    with InfluenceClient(lingering.target) as client:
        with pytest.raises(LookupError):
            consume(client)
        assert lingering.wait_until_idle()


def test_a_reader_that_has_every_row_does_not_wait_for_the_server(lingering: RankingServer) -> None:
    with InfluenceClient(lingering.target) as client:
        assert [row.sample_id for row in client.stream_ranked_samples("j1")] == ids(100)
        assert lingering.wait_until_idle()


def test_with_ends_the_handler_also_when_the_iterator_is_kept(lingering: RankingServer) -> None:
    with InfluenceClient(lingering.target) as client:
        with client.stream_ranked_samples("j1") as stream:
            assert next(stream).rank == 1
            assert lingering.wait_until_busy()
        assert lingering.wait_until_idle()
        assert list(stream) == []
        assert len(lingering.requests("StreamRankedSamples")) == 1


def test_closing_the_client_ends_its_streams(lingering: RankingServer) -> None:
    client = InfluenceClient(lingering.target, reconnect=FAST)
    stream = client.stream_ranked_samples("j1").chunks()
    next(stream)
    client.close()
    assert lingering.wait_until_idle()
    with pytest.raises(Exception, match="was closed") as caught:
        list(stream)
    assert getattr(caught.value, "reason", "") == "CLIENT_CLOSED"


def test_a_server_that_hangs_is_noticed_by_the_deadline_of_the_call() -> None:
    released = []

    async def hang_once(request: influence_service_pb2.StreamRankedSamplesRequest, context: Context) -> None:
        chunks = ranking_chunks(20)
        if not request.resume_token:
            await context.write(chunks[0])
            released.append(time.monotonic())
            await asyncio.sleep(60)
        await context.write(chunks[1])

    quick = Reconnect(first_delay=0.01, max_delay=0.05, patience=5.0, attempt_timeout=0.3)
    with ScriptedServer(SERVICE, {"StreamRankedSamples": hang_once}) as server:
        with InfluenceClient(server.target, reconnect=quick) as client:
            assert [row.rank for row in client.stream_ranked_samples("j1")] == list(range(1, 21))
        assert time.monotonic() - released[0] < 5

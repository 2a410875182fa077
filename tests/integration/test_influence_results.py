"""Pages and streams of results: order, tokens, and what is refused."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2, results_pb2

from services.common.checksum import chunk_crc32c
from tests.influence_app import FOREVER, Influence, Step, refusal, running_influence

SAMPLES = 23
KEPT = 4
HELPFUL = results_pb2.RANK_ORDER_HELPFUL_FIRST
Row = tuple[int, str, str, float]


def ranking(query_id: str, keep: int) -> list[dict[str, Any]]:
    return [
        {
            "query_id": query_id,
            "rank": rank,
            "sample_id": f"{query_id}-{rank}",
            "label": f"l{rank % 3}",
            "score": 12.0 - rank,
        }
        for rank in range(1, SAMPLES + 1)
        if rank <= keep or rank > SAMPLES - keep
    ]


def pair(query_id: str, number: int) -> dict[str, Any]:
    return {
        "query_id": query_id,
        "kind": "group",
        "sample_id": f"t{number}",
        "neighbor_id": f"u{number}",
        "label": "x",
        "neighbor_label": "y",
        "distance": number / 2,
    }


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


RANK_TABLES = {
    "ranking": columns([*ranking("all", SAMPLES), *ranking("pair:a:b", KEPT), *ranking("class:x", SAMPLES)]),
    "pairs": columns([pair("pair:a:b", 1), pair("class:x", 2), pair("class:x", 3)]),
    "quarantine": columns(
        [{"sample_id": "q", "uri": "s3://b/q", "split": "train", "reason": "IMAGE_INVALID", "message": "m"}]
    ),
}
RELABEL_TABLES = {
    "relabel": columns(
        [
            {
                "rank": rank,
                "sample_id": f"s{rank}",
                "label": "x",
                "suggested_label": "y",
                "suggested_probability": 0.75,
                "label_probability": 0.25,
                "score": 0.75,
                "neighbor_ids": ["n1", "n2"],
                "neighbor_labels": ["y", "x"],
                "neighbor_distances": [0.5, 1.0],
            }
            for rank in range(1, 6)
        ]
    )
}
SUCCEED: Step = {"do": "succeed", "tables": RANK_TABLES}


def expected(query_id: str, *, keep: int = SAMPLES, helpful_first: bool = False) -> list[Row]:
    rows = [(row["rank"], row["sample_id"], row["label"], row["score"]) for row in ranking(query_id, keep)]
    if helpful_first:
        return [(SAMPLES + 1 - rank, sample_id, label, score) for rank, sample_id, label, score in reversed(rows)]
    return rows


def rows_of(chunks: list[results_pb2.RankedSamplesChunk]) -> list[Row]:
    return [
        (chunk.first_rank + place, chunk.sample_ids[place], chunk.labels[place], chunk.scores[place])
        for chunk in chunks
        for place in range(len(chunk.sample_ids))
    ]


def stream(influence: Influence, name: str, **fields: Any) -> AsyncIterator[results_pb2.RankedSamplesChunk]:
    return aiter(influence.stub.StreamRankedSamples(service_pb2.StreamRankedSamplesRequest(name=name, **fields)))


async def chunks_of(influence: Influence, name: str, **fields: Any) -> list[results_pb2.RankedSamplesChunk]:
    return [chunk async for chunk in stream(influence, name, **fields)]


async def page(influence: Influence, name: str, **fields: Any) -> service_pb2.ListJobResultsResponse:
    request = {"name": name, "table": results_pb2.RESULT_TABLE_RANKING, **fields}
    return await influence.stub.ListJobResults(service_pb2.ListJobResultsRequest(**request))


@pytest.fixture
async def ranked(influence: Influence) -> str:
    """The name of a rank job that succeeded."""
    return (await influence.run(SUCCEED)).name


@pytest.fixture
async def relabelled(influence: Influence) -> str:
    """The name of a relabel job that succeeded."""
    job = influence.relabel_job({"do": "succeed", "tables": RELABEL_TABLES})
    return (await influence.ended(await influence.create(job))).name


class TestStream:
    @pytest.mark.parametrize("helpful_first", [False, True])
    @pytest.mark.parametrize(
        ("query_id", "keep"), [("", SAMPLES), ("all", SAMPLES), ("class:x", SAMPLES), ("pair:a:b", KEPT)]
    )
    async def test_rows_come_in_the_total_order(
        self, influence: Influence, ranked: str, query_id: str, keep: int, *, helpful_first: bool
    ) -> None:
        order = HELPFUL if helpful_first else results_pb2.RANK_ORDER_UNSPECIFIED
        chunks = await chunks_of(influence, ranked, query_id=query_id, order=order, chunk_rows=5)
        rows = expected(query_id or "all", keep=keep, helpful_first=helpful_first)
        assert rows_of(chunks) == rows
        assert {chunk.query_id for chunk in chunks} == {query_id or "all"}
        assert {chunk.total_rows for chunk in chunks} == {len(rows)}
        offset = 0
        for chunk in chunks:
            assert chunk.offset == offset
            assert len(chunk.sample_ids) <= 5
            assert not chunk.suggested_labels
            offset += len(chunk.sample_ids)

    async def test_every_chunk_has_its_checksum(self, influence: Influence, ranked: str, relabelled: str) -> None:
        chunks = [*await chunks_of(influence, ranked, chunk_rows=7), *await chunks_of(influence, relabelled)]
        for chunk in chunks:
            assert chunk.crc32c == chunk_crc32c(
                query_id=chunk.query_id,
                first_rank=chunk.first_rank,
                sample_ids=chunk.sample_ids,
                scores=chunk.scores,
                labels=chunk.labels,
                suggested_labels=chunk.suggested_labels,
                suggested_probabilities=chunk.suggested_probabilities,
            )

    @pytest.mark.parametrize("max_rows", [1, 5, 7, SAMPLES, SAMPLES + 9])
    async def test_it_stops_after_so_many_rows(self, influence: Influence, ranked: str, max_rows: int) -> None:
        chunks = await chunks_of(influence, ranked, max_rows=max_rows, chunk_rows=5)
        assert rows_of(chunks) == expected("all")[:max_rows]

    @pytest.mark.parametrize("fields", [{}, {"order": HELPFUL}, {"query_id": "pair:a:b"}, {"max_rows": 13}])
    async def test_it_goes_on_after_any_chunk(self, influence: Influence, ranked: str, fields: dict[str, Any]) -> None:
        chunks = await chunks_of(influence, ranked, chunk_rows=3, **fields)
        whole = rows_of(chunks)
        for number, chunk in enumerate(chunks, 1):
            rest = await chunks_of(influence, ranked, chunk_rows=2, resume_token=chunk.resume_token, **fields)
            assert rows_of(chunks[:number]) + rows_of(rest) == whole

    async def test_tokens_are_good_after_a_restart(self, tmp_path: Path) -> None:
        async with running_influence(tmp_path) as influence:
            name = (await influence.run(SUCCEED)).name
            first, *rest = await chunks_of(influence, name, chunk_rows=5)
            first_page = await page(influence, name, page_size=5)
        async with running_influence(tmp_path) as influence:
            again = await chunks_of(influence, name, chunk_rows=5, resume_token=first.resume_token)
            assert again == rest
            second_page = await page(influence, name, page_token=first_page.next_page_token)
            assert second_page.rows[0].ranked.rank == 6

    async def test_a_relabel_job_streams_its_suggestions(self, influence: Influence, relabelled: str) -> None:
        (chunk,) = await chunks_of(influence, relabelled, order=HELPFUL)
        assert chunk.query_id == ""
        assert list(chunk.sample_ids) == ["s5", "s4", "s3", "s2", "s1"]
        assert set(chunk.suggested_labels) == {"y"}
        assert set(chunk.suggested_probabilities) == {0.75}

    async def test_an_empty_ranking_is_an_empty_answer(self, influence: Influence) -> None:
        name = (await influence.run({"do": "succeed", "tables": {"ranking": {}, "pairs": {}}})).name
        assert await chunks_of(influence, name) == []
        listed = await page(influence, name)
        assert (list(listed.rows), listed.total_rows, listed.next_page_token) == ([], 0, "")

    async def test_many_streams_at_a_time(self, influence: Influence, ranked: str) -> None:
        streams = await asyncio.gather(*(chunks_of(influence, ranked, chunk_rows=2) for _ in range(20)))
        assert all(rows_of(chunks) == expected("all") for chunks in streams)

    async def test_a_server_that_stops_says_so_in_the_middle(self, tmp_path: Path) -> None:
        async with running_influence(tmp_path) as influence:
            name = (await influence.run(SUCCEED)).name
            influence.app.stopping.set()
            refused = await refusal(chunks_of(influence, name))
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")


class TestPages:
    async def test_pages_add_up_to_the_table(self, influence: Influence, ranked: str) -> None:
        rows: list[results_pb2.RankedSample] = []
        token = ""
        while True:
            got = await page(influence, ranked, page_size=7, page_token=token)
            assert got.total_rows == SAMPLES
            rows += [row.ranked for row in got.rows]
            token = got.next_page_token
            if not token:
                break
        assert [(row.rank, row.sample_id, row.label, row.score) for row in rows] == expected("all")
        effects = [row.effect for row in rows if row.score > 0]
        assert set(effects) == {results_pb2.EFFECT_HARMFUL}
        assert {row.effect for row in rows if row.score < 0} == {results_pb2.EFFECT_HELPFUL}
        assert {row.effect for row in rows if row.score == 0} == {results_pb2.EFFECT_NEUTRAL}

    async def test_rows_of_one_query(self, influence: Influence, ranked: str) -> None:
        got = await page(influence, ranked, query_id="pair:a:b")
        assert [row.ranked.rank for row in got.rows] == [1, 2, 3, 4, 20, 21, 22, 23]
        got = await page(influence, ranked, table=results_pb2.RESULT_TABLE_PAIRS, query_id="class:x")
        assert [row.pair.sample_id for row in got.rows] == ["t2", "t3"]

    async def test_every_table_has_its_rows(self, influence: Influence, ranked: str, relabelled: str) -> None:
        pairs = await page(influence, ranked, table=results_pb2.RESULT_TABLE_PAIRS)
        assert [row.pair for row in pairs.rows][2] == results_pb2.QueryPair(**pair("class:x", 3))
        quarantine = await page(influence, ranked, table=results_pb2.RESULT_TABLE_QUARANTINE)
        assert [(row.quarantined.sample_id, row.quarantined.reason) for row in quarantine.rows] == [
            ("q", "IMAGE_INVALID")
        ]
        relabel = await page(influence, relabelled, table=results_pb2.RESULT_TABLE_RELABEL)
        first = relabel.rows[0].relabel
        assert (first.rank, first.suggested_label, first.score) == (1, "y", 0.75)
        assert [(near.sample_id, near.label, near.distance) for near in first.neighbors] == [
            ("n1", "y", 0.5),
            ("n2", "x", 1.0),
        ]

    async def test_a_page_is_no_larger_than_a_message_may_be(self, influence: Influence) -> None:
        rows = [{**row, "label": "x" * 1_000_000} for row in ranking("all", SAMPLES)]
        name = (await influence.run({"do": "succeed", "tables": {"ranking": columns(rows)}})).name
        ranks: list[int] = []
        token = ""
        while True:
            got = await page(influence, name, page_size=100, page_token=token)
            assert 1 <= len(got.rows) <= 3
            ranks += [row.ranked.rank for row in got.rows]
            token = got.next_page_token
            if not token:
                break
        assert ranks == list(range(1, SAMPLES + 1))


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("fields", "code", "reason"),
        [
            ({"query_id": "pair:no:no"}, "NOT_FOUND", "QUERY_NOT_FOUND"),
            ({"max_rows": -1}, "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
            ({"chunk_rows": -1}, "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
            ({"order": 9}, "INVALID_ARGUMENT", "ARGUMENT_INVALID"),
            ({"resume_token": "x"}, "INVALID_ARGUMENT", "RESUME_TOKEN_INVALID"),
        ],
    )
    async def test_a_bad_stream(
        self, influence: Influence, ranked: str, fields: dict[str, Any], code: str, reason: str
    ) -> None:
        refused = await refusal(chunks_of(influence, ranked, **fields))
        assert (refused.code.name, refused.reason) == (code, reason)
        assert next(iter(fields)) in refused.message
        assert len(await chunks_of(influence, ranked)) == 1

    @pytest.mark.parametrize(
        ("fields", "code", "reason", "word"),
        [
            ({"table": 0}, "INVALID_ARGUMENT", "ARGUMENT_INVALID", "table"),
            ({"table": 99}, "INVALID_ARGUMENT", "ARGUMENT_INVALID", "table"),
            (
                {"table": results_pb2.RESULT_TABLE_RELABEL},
                "NOT_FOUND",
                "TABLE_NOT_FOUND",
                "it has pairs, quarantine, ranking",
            ),
            ({"page_size": -1}, "INVALID_ARGUMENT", "ARGUMENT_INVALID", "page_size"),
            ({"page_token": "x"}, "INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", "page_token"),
            ({"query_id": "no"}, "NOT_FOUND", "QUERY_NOT_FOUND", "RESULT_TABLE_PAIRS"),
            (
                {"query_id": "all", "table": results_pb2.RESULT_TABLE_QUARANTINE},
                "INVALID_ARGUMENT",
                "ARGUMENT_INVALID",
                "query_id",
            ),
        ],
    )
    async def test_a_bad_page(
        self, influence: Influence, ranked: str, fields: dict[str, Any], code: str, reason: str, word: str
    ) -> None:
        refused = await refusal(page(influence, ranked, **fields))
        assert (refused.code.name, refused.reason) == (code, reason)
        assert word in refused.message
        assert (await page(influence, ranked)).total_rows == SAMPLES

    async def test_tokens_of_another_request(self, influence: Influence, ranked: str) -> None:
        other = (await influence.run(SUCCEED)).name
        token = (await chunks_of(influence, ranked, chunk_rows=5))[0].resume_token
        page_token = (await page(influence, ranked, page_size=5)).next_page_token
        streams: list[tuple[str, dict[str, Any]]] = [
            (other, {}),
            (ranked, {"order": HELPFUL}),
            (ranked, {"query_id": "class:x"}),
            (ranked, {"max_rows": 9}),
        ]
        for name, fields in streams:
            refused = await refusal(chunks_of(influence, name, resume_token=token, **fields))
            assert refused.reason == "RESUME_TOKEN_INVALID"
        pages: list[tuple[str, dict[str, Any]]] = [
            (other, {}),
            (ranked, {"query_id": "class:x"}),
            (ranked, {"table": results_pb2.RESULT_TABLE_PAIRS}),
        ]
        for name, fields in pages:
            refused = await refusal(page(influence, name, page_token=page_token, **fields))
            assert refused.reason == "PAGE_TOKEN_INVALID"
        assert (await refusal(chunks_of(influence, ranked, resume_token=page_token))).reason == "RESUME_TOKEN_INVALID"
        assert rows_of(await chunks_of(influence, ranked, query_id="all", resume_token=token)) == expected("all")[5:]

    async def test_a_relabel_job_has_no_queries(self, influence: Influence, relabelled: str) -> None:
        refused = await refusal(chunks_of(influence, relabelled, query_id="all"))
        assert (refused.reason, refused.metadata["field"]) == ("ARGUMENT_INVALID", "query_id")

    async def test_a_job_without_results(self, influence: Influence) -> None:
        failed = await influence.run({"do": "fail", "reason": "IMAGE_INVALID", "message": "why it failed"})
        running = await influence.create(influence.rank_job(FOREVER))
        for name, word in [(failed.name, "why it failed"), (running.name, "wait until it has succeeded")]:
            for call in (chunks_of(influence, name), page(influence, name)):
                refused = await refusal(call)
                assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "JOB_NOT_SUCCEEDED")
                assert word in refused.message

    @pytest.mark.parametrize("gone", [True, False])
    async def test_results_that_were_damaged(self, influence: Influence, ranked: str, *, gone: bool) -> None:
        job = await influence.get(job_pb2.InfluenceJob(name=ranked))
        table = influence.root / "results" / job.uid / "attempt-1" / "ranking.parquet"
        table.unlink() if gone else table.write_bytes(table.read_bytes()[:-3])
        for call in (chunks_of(influence, ranked), page(influence, ranked)):
            refused = await refusal(call)
            assert (refused.code, refused.reason) == (grpc.StatusCode.DATA_LOSS, "RESULT_CORRUPT")
            assert "ranking.parquet" in refused.message
        assert (await page(influence, ranked, table=results_pb2.RESULT_TABLE_PAIRS)).total_rows == 3

    async def test_a_job_that_is_deleted_while_it_is_read_is_not_found(self, influence: Influence, ranked: str) -> None:
        job = await influence.get(job_pb2.InfluenceJob(name=ranked))
        folder = influence.root / "results" / job.uid
        shutil.rmtree(folder / "attempt-1")  # as a delete does first
        reads = [asyncio.create_task(refusal(call)) for call in (chunks_of(influence, ranked), page(influence, ranked))]
        done, _ = await asyncio.wait(reads, timeout=0.2)
        assert not done
        await influence.delete(job)
        assert [(await read).reason for read in reads] == ["JOB_NOT_FOUND"] * 2

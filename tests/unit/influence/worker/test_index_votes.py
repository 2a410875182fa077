from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from eif.embedding.v1 import embedding_service_pb2 as pb

from eif_engine.config import VoteRule
from eif_engine.errors import EifError, TooManyQuarantined
from eif_engine.types import Sample, no_progress
from services.common.errors import ServiceError
from services.influence.worker.cancellation import Cancellation, Cancelled
from services.influence.worker.index_neighbors import IndexNeighbors
from services.influence.worker.index_votes import IndexVotes, index_votes
from services.influence.worker.quarantine import Quarantine
from services.influence.worker.split import Split
from tests.scripted_server import Context, ScriptedServer, refuse

SERVICE = pb.DESCRIPTOR.services_by_name["EmbeddingService"]
INDEX = "projects/p/indexes/i"
LABELS = {"a": "x", "b": "x", "c": "y", "d": "y", "e": "x"}
NEIGHBORS = {
    "a": (["b", "c"], [0.1, 0.5]),
    "b": (["a", "gone"], [0.1, 0.2]),
    "c": (["a", "b"], [0.5, 0.6]),
    "d": (["c", "a"], [0.3, 0.9]),
}
Search = Callable[[pb.SearchNeighborsRequest, Context], Awaitable[pb.SearchNeighborsResponse]]


async def info(_request: pb.GetServerInfoRequest, _context: Context) -> pb.ServerInfo:
    return pb.ServerInfo(max_queries_per_request=3, max_neighbors=2)


async def search(request: pb.SearchNeighborsRequest, context: Context) -> pb.SearchNeighborsResponse:
    for query in request.queries:
        if query.sample_id not in NEIGHBORS:
            message = f"the index has no sample {query.sample_id!r}"
            await refuse(
                context, grpc.StatusCode.INVALID_ARGUMENT, "SAMPLE_UNKNOWN", message, sample_id=query.sample_id
            )
    found = [NEIGHBORS[query.sample_id] for query in request.queries]
    # Labels of an index may be older than the manifest: these are all wrong.
    results = [pb.Neighbors(sample_ids=ids, distances=distances, labels=["old"] * len(ids)) for ids, distances in found]
    return pb.SearchNeighborsResponse(results=results)


def train() -> Split:
    samples = [
        Sample(sample_id=sample_id, uri=f"s3://b/{sample_id}.png", label=label) for sample_id, label in LABELS.items()
    ]
    return Split("train", uri="s3://b/m.jsonl", sha256="0" * 64, samples=samples)


def served(answer: Any = search) -> ScriptedServer:
    return ScriptedServer(SERVICE, {"GetServerInfo": info, "SearchNeighbors": answer})


def votes(
    target: str,
    wanted: list[str],
    *,
    num_neighbors: int | None = None,
    quarantine: Quarantine | None = None,
    patience_s: float = 5.0,
    cancellation: Cancellation | None = None,
) -> IndexVotes:
    check = (cancellation or Cancellation()).check
    with IndexNeighbors(target, INDEX, timeout_s=5.0, patience_s=patience_s, check=check) as index:
        return index_votes(
            index,
            train(),
            wanted,
            num_neighbors=num_neighbors,
            rule=VoteRule.SOFT,
            quarantine=quarantine or Quarantine(0.5),
            report=no_progress,
        )


def test_labels_are_those_of_the_manifest_and_strangers_do_not_vote() -> None:
    with served() as server:
        found = votes(server.target, ["a", "b", "c", "d"])
    by_id = {each.sample_id: each for each in found.suggestions}
    assert found.ignored == 1  # `gone`
    assert [(voter.sample_id, voter.label) for voter in by_id["a"].neighbors] == [("b", "x"), ("c", "y")]
    assert [voter.sample_id for voter in by_id["b"].neighbors] == ["a"]
    assert by_id["c"].suggested_label == "x"
    assert by_id["c"].label_probability == 0.0
    assert found.suggestions[0].sample_id == "c"


def test_queries_come_in_batches_of_what_the_server_takes() -> None:
    with served() as server:
        votes(server.target, ["a", "b", "c", "d"])
        requests = server.requests("SearchNeighbors")
    assert [[query.sample_id for query in request.queries] for request in requests] == [["a", "b", "c"], ["d"]]
    assert {request.index for request in requests} == {INDEX}
    assert {request.num_neighbors for request in requests} == {2}  # the median class has 2, and 2 is the most


def test_a_sample_that_the_index_does_not_have_is_put_aside() -> None:
    quarantine = Quarantine(0.5)
    with served() as server:
        found = votes(server.target, ["a", "e", "c"], quarantine=quarantine)
    assert sorted(each.sample_id for each in found.suggestions) == ["a", "c"]
    ((split, entry),) = quarantine.entries()
    assert (split, entry.sample_id, entry.uri, entry.reason) == ("train", "e", "s3://b/e.png", "SAMPLE_UNKNOWN")


def test_too_many_of_those_fail_the_job() -> None:
    with served() as server, pytest.raises(TooManyQuarantined):
        votes(server.target, ["a", "e"], quarantine=Quarantine(0.1))


def flaky(failures: int, code: grpc.StatusCode, reason: str) -> Search:
    """Fails that often, then answers."""
    left = [failures]

    async def answer(request: pb.SearchNeighborsRequest, context: Context) -> pb.SearchNeighborsResponse:
        if left[0]:
            left[0] -= 1
            await refuse(context, code, reason, "come back later")
        return await search(request, context)

    return answer


@pytest.mark.parametrize(
    ("code", "reason"),
    [(grpc.StatusCode.UNAVAILABLE, "STORAGE_UNAVAILABLE"), (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")],
)
def test_a_service_that_is_away_or_busy_is_called_again(code: grpc.StatusCode, reason: str) -> None:
    with served(flaky(2, code, reason)) as server:
        found = votes(server.target, ["a"])
        assert len(server.requests("SearchNeighbors")) == 3
    assert [each.sample_id for each in found.suggestions] == ["a"]


def test_a_service_that_restarts_is_waited_for() -> None:
    with served() as server:
        server.stop()
        timer = threading.Timer(0.5, server.start)
        timer.start()
        found = votes(server.target, ["a"], patience_s=15)
        timer.join()
    assert len(found.suggestions) == 1


def test_a_service_that_stays_away_fails_the_job() -> None:
    with served() as server:
        server.stop()
        with pytest.raises(ServiceError, match=r"did not answer for 0\.3 s") as caught:
            votes(server.target, ["a"], patience_s=0.3)
        assert caught.value.metadata["target"] == server.target
    assert caught.value.reason == "EMBEDDING_UNAVAILABLE"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.NOT_FOUND, "INDEX_NOT_FOUND"),
        (grpc.StatusCode.FAILED_PRECONDITION, "INDEX_NOT_READY"),
        (grpc.StatusCode.INVALID_ARGUMENT, "ARGUMENT_INVALID"),
    ],
)
def test_what_the_service_refuses_is_passed_on(code: grpc.StatusCode, reason: str) -> None:
    async def answer(_request: pb.SearchNeighborsRequest, context: Context) -> None:
        await refuse(context, code, reason, "no such index", index=INDEX)

    with served(answer) as server, pytest.raises(EifError, match="no such index") as caught:
        votes(server.target, ["a"])
    assert caught.value.reason == reason
    assert caught.value.metadata == {"index": INDEX}
    assert len(server.requests("SearchNeighbors")) == 1


def test_an_error_without_a_known_reason_is_told() -> None:
    async def answer(_request: pb.SearchNeighborsRequest, context: Context) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "boom")

    with served(answer) as server, pytest.raises(ServiceError, match="INTERNAL: boom") as caught:
        votes(server.target, ["a"])
    assert caught.value.reason == "EMBEDDING_UNAVAILABLE"


def test_waiting_ends_when_the_job_is_cancelled() -> None:
    cancellation = Cancellation()
    with served() as server:
        server.stop()
        threading.Timer(0.3, cancellation.request).start()
        started = time.monotonic()
        with pytest.raises(Cancelled):
            votes(server.target, ["a"], patience_s=60, cancellation=cancellation)
    assert time.monotonic() - started < 10

"""ReadJobFile: the bytes of results, whole, in parts, over broken connections, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from pathlib import Path

import grpc
import pyarrow.parquet as pq
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2

from services.client.errors import StreamCorrupt
from services.client.influence import InfluenceClient
from services.client.reconnect import Reconnect
from services.influence.job_files import CHUNK_BYTES
from tests.influence_app import FOREVER, Influence, Step, refusal
from tests.tcp_proxy import TcpProxy

ROWS = 40_000
FAST = Reconnect(first_delay=0.02, max_delay=0.2, patience=30.0)


def ranking() -> Step:
    """A table of several parts: ids that do not compress."""
    ids = random.Random(0)
    columns = {
        "query_id": ["all"] * ROWS,
        "rank": list(range(1, ROWS + 1)),
        "sample_id": [f"{ids.getrandbits(256):x}" for _ in range(ROWS)],
        "label": ["x"] * ROWS,
        "score": [float(-rank) for rank in range(ROWS)],
    }
    return {"do": "succeed", "tables": {"ranking": columns}}


@pytest.fixture(scope="module")
def script() -> Step:
    return ranking()


def stored(influence: Influence, job: job_pb2.InfluenceJob) -> Path:
    return influence.root / "results" / job.uid / "attempt-1" / "ranking.parquet"


async def parts(influence: Influence, **request: object) -> list[tuple[int, bytes]]:
    call = influence.stub.ReadJobFile(service_pb2.ReadJobFileRequest(**request))  # type: ignore[arg-type]  # tests name fields freely
    return [(chunk.offset, chunk.data) async for chunk in call]


async def test_a_file_comes_whole_in_bounded_parts_and_from_any_offset(influence: Influence, script: Step) -> None:
    job = await influence.run(script)
    data = stored(influence, job).read_bytes()
    found = await parts(influence, name=job.name, file="ranking.parquet")
    assert b"".join(part for _, part in found) == data
    assert len(found) >= 3
    assert max(len(part) for _, part in found) <= CHUNK_BYTES
    middle = await parts(influence, name=job.name, file="ranking.parquet", offset=CHUNK_BYTES + 7)
    assert middle[0][0] == CHUNK_BYTES + 7
    assert b"".join(part for _, part in middle) == data[CHUNK_BYTES + 7 :]
    assert await parts(influence, name=job.name, file="ranking.parquet", offset=len(data)) == [(len(data), b"")]


async def test_the_client_gives_a_table_a_file_and_survives_cuts(
    influence: Influence, script: Step, tmp_path: Path
) -> None:
    job = await influence.run(script)
    data = stored(influence, job).read_bytes()

    def read() -> None:
        with TcpProxy(int(influence.address.rpartition(":")[2])) as proxy:
            with InfluenceClient(proxy.target, reconnect=FAST) as client:
                proxy.cut_after(len(data) // 2, then_target=proxy.target_port)
                client.save_file(job.name, "ranking.parquet", tmp_path / "copy.parquet")
                table = client.read_table(job.name, "ranking")
            assert proxy.connections >= 2
        assert (tmp_path / "copy.parquet").read_bytes() == data
        assert table.equals(pq.read_table(io.BytesIO(data)))
        assert table.to_pandas()["rank"].tolist() == list(range(1, ROWS + 1))

    await asyncio.to_thread(read)


async def test_what_was_changed_behind_the_manifest_is_told(influence: Influence, script: Step, tmp_path: Path) -> None:
    job = await influence.run(script)
    path = stored(influence, job)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)

    def read() -> None:
        with InfluenceClient(influence.address) as client:
            client.save_file(job.name, "ranking.parquet", tmp_path / "copy.parquet")

    with pytest.raises(StreamCorrupt, match=hashlib.sha256(data).hexdigest()):
        await asyncio.to_thread(read)
    assert not (tmp_path / "copy.parquet").exists()
    path.write_bytes(data[:-1])
    assert (await refusal(parts(influence, name=job.name, file="ranking.parquet"))).reason == "RESULT_CORRUPT"
    path.unlink()
    assert (await refusal(parts(influence, name=job.name, file="ranking.parquet"))).reason == "RESULT_CORRUPT"


async def test_what_is_refused(influence: Influence, script: Step) -> None:
    job = await influence.run(script)
    unknown = await refusal(parts(influence, name=job.name, file="../ranking.parquet"))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "FILE_NOT_FOUND")
    assert "quarantine.parquet, ranking.parquet" in unknown.message
    for fields in ({"file": "ranking.parquet", "offset": 1 << 40}, {"file": "ranking.parquet", "offset": -1}, {}):
        assert (await refusal(parts(influence, name=job.name, **fields))).reason == "ARGUMENT_INVALID"
    waiting = await influence.create(influence.rank_job(FOREVER, train="forever.jsonl"))
    assert (await refusal(parts(influence, name=waiting.name, file="x"))).reason == "JOB_NOT_SUCCEEDED"
    assert (await refusal(parts(influence, name=f"{job.name}x", file="x"))).reason == "JOB_NOT_FOUND"

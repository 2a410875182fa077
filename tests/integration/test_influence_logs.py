"""What a server and its job processes write to their logs: JSON, one line a call, and nothing that is secret."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from eif.influence.v1 import influence_service_pb2 as service_pb2
from eif.influence.v1 import job_pb2

from tests.influence_process import influence_process
from tests.job_world import JobWorld
from tests.servers import until

SECRETS = {
    "EIF_STORAGE_S3_ACCESS_KEY": "AKIAACCESSKEY0001",
    "EIF_STORAGE_S3_SECRET_KEY": "the-very-secret-key",
    "EIF_STORAGE_S3_SESSION_TOKEN": "the-session-token-1",
}
SIGNED = "https://store.example/b/model.json?X-Amz-Signature=deadbeefdeadbeef"
NEVER = (*SECRETS.values(), "deadbeefdeadbeef", "bearer-of-the-caller", "password-in-a-uri")


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_logs_are_json_with_ids_and_hold_nothing_secret(tmp_path: Path) -> None:
    world = JobWorld(tmp_path / "world")
    spec = world.rank_spec()
    assert spec.model is not None
    manifest = world.manifest("signed.jsonl", [{"id": "a", "uri": SIGNED, "label": "ant"}])
    rank = job_pb2.RankSpec(
        model=job_pb2.ArtifactRef(uri=spec.model.uri),
        train_manifest=job_pb2.ArtifactRef(uri=manifest.uri),
        test_manifest=job_pb2.ArtifactRef(uri=spec.test_manifest.uri),
    )
    metadata = (("authorization", "Bearer bearer-of-the-caller"), ("x-request-id", "request-7"))
    away = {"EIF_STORAGE_S3_ENDPOINT": f"http://127.0.0.1:{free_port()}", "EIF_INFLUENCE_LOG_LEVEL": "DEBUG"}
    with influence_process(tmp_path, scripted=False, **SECRETS, **away) as server:
        job = server.create(job_pb2.InfluenceJob(rank=rank))
        ended = server.ended(job)
        assert ended.state == job_pb2.JOB_STATE_FAILED
        for uri in (SIGNED, "s3://user:password-in-a-uri@bucket/key", "s3://bucket/unreachable"):
            wrong = job_pb2.RankSpec()
            wrong.CopyFrom(rank)
            wrong.model.uri = uri
            request = service_pb2.CreateInfluenceJobRequest(
                parent="projects/p", influence_job=job_pb2.InfluenceJob(rank=wrong)
            )
            with pytest.raises(grpc.RpcError):
                server.stub.CreateInfluenceJob(request, timeout=60, metadata=metadata)
        until(lambda: server.log.read_text().count('"request-7", "event": "call"') == 3)  # after the answer
        log = server.log.read_text()
    (job_log,) = [path.read_text() for path in (server.state_dir / "jobs" / job.uid).rglob("log.txt")]
    assert not [secret for secret in NEVER if secret in log + job_log]
    lines = [json.loads(line) for line in log.splitlines()]
    calls = [line for line in lines if line.get("request_id") == "request-7" and line.get("event") == "call"]
    assert [line["reason"] for line in calls] == ["URI_NOT_ALLOWED", "URI_NOT_ALLOWED", "STORAGE_UNAVAILABLE"]
    (created,) = [line for line in lines if line.get("job_uid") == job.uid and "CreateInfluenceJob" in line["message"]]
    assert created["code"] == "OK"
    job_lines = [json.loads(line) for line in job_log.splitlines()]
    assert job_lines
    assert {line["job_uid"] for line in job_lines} == {job.uid}

"""The influence service as a process: how light it is, and what it says of itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from eif.influence.v1 import influence_service_pb2, influence_service_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.conftest import REPO
from tests.influence_process import influence_process
from tests.secured import Secured, bearer
from tests.waiting import wait_until

SERVICE = "eif.influence.v1.InfluenceService"
MAX_RSS = 120 << 20


def test_a_server_at_rest_is_small_and_soon_ready(tmp_path: Path) -> None:
    with influence_process(tmp_path, scripted=False) as server:
        server.stub.GetServerInfo(influence_service_pb2.GetServerInfoRequest())
        assert psutil.Process(server.process.pid).memory_info().rss < MAX_RSS
        assert server.start_s < 15  # 2 s is what it takes on a machine with nothing else to do


def test_the_control_plane_imports_no_torch() -> None:
    program = (
        "import sys\n"
        "import services.influence.__main__, services.influence.stream, services.influence.stored_table\n"
        "heavy = {'torch', 'torchvision', 'onnxruntime', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True, timeout=60)


def test_a_server_at_rest_has_not_loaded_pyarrow() -> None:
    program = "import sys, services.influence.__main__\nassert 'pyarrow' not in sys.modules\n"
    subprocess.run([sys.executable, "-c", program], cwd=REPO, check=True, timeout=60)


def test_health_and_reflection_answer(tmp_path: Path) -> None:
    with influence_process(tmp_path) as server:
        health: Any = health_pb2_grpc.HealthStub(server.channel)
        for service in ("", SERVICE):
            reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
        (reply,) = reflection.ServerReflectionInfo(iter([request]), timeout=10)
        assert reply.file_descriptor_response.file_descriptor_proto


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"EIF_INFLUENCE_MAX_RUNNING_JOBS": "0"}, "EIF_INFLUENCE_MAX_RUNNING_JOBS"),
        ({"EIF_INFLUENCE_LISTEN": "0.0.0.0:1"}, "plain text"),
        ({"EIF_INFLUENCE_LISTEN": "nowhere"}, "host:port"),
        ({"EIF_INFLUENCE_OUTPUT_URI_PREFIX": "s3://bucket"}, "EIF_STORAGE_S3_ENDPOINT"),
        ({"EIF_INFLUENCE_OUTPUT_URI_PREFIX": "http://x"}, "must start with s3:// or file:///"),
        ({"EIF_STORAGE_S3_ACCESS_KEY": "a-secret-key"}, "s3_access_key and s3_secret_key go together"),
        ({"EIF_INFLUENCE_STATE_DIR": "/dev/null/x"}, "/dev/null/x cannot be used"),
    ],
)
def test_what_it_cannot_start_with_is_told_without_secrets(tmp_path: Path, environ: dict[str, str], told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.influence"],
        cwd=REPO,
        env={"PYTHONPATH": str(REPO), "HOME": str(tmp_path), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cannot start: ")
    assert done.stderr.count("\n") == 1
    assert told in done.stderr
    assert "a-secret-key" not in done.stderr


def test_with_identity_it_refuses_plain_text_unless_told_insecure_loopback(tmp_path: Path) -> None:
    secured = Secured(tmp_path / "secured")
    secured.policy((["token:nightly"], ["*"], ["read"]), p={})
    environ = {name: value for name, value in secured.environ("EIF_INFLUENCE_").items() if "TLS" not in name}
    command = [
        sys.executable,
        "-m",
        "services.influence",
        "--listen",
        "127.0.0.1:0",
        "--state-dir",
        str(tmp_path / "s"),
    ]
    ready = tmp_path / "ready"
    process_environ = {"PYTHONPATH": str(REPO), "HOME": str(tmp_path), **environ}
    refused = subprocess.run(
        command, cwd=REPO, env=process_environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "EIF_INFLUENCE_TLS_CERTIFICATE_FILE" in refused.stderr
    assert "EIF_INFLUENCE_INSECURE_LOOPBACK=true" in refused.stderr
    everywhere = subprocess.run(
        [*command[:4], "0.0.0.0:0", *command[5:], "--insecure-loopback"],
        cwd=REPO,
        env=process_environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (everywhere.returncode, "plain text" in everywhere.stderr) == (2, True)
    running = subprocess.Popen(
        [*command, "--insecure-loopback", "--ready-file", str(ready)],
        cwd=REPO,
        env=process_environ,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: ready.exists() or running.poll() is not None, within_s=60)
        with grpc.insecure_channel(json.loads(ready.read_text())["address"]) as channel:
            stub = influence_service_pb2_grpc.InfluenceServiceStub(channel)
            token = bearer(secured.token("nightly"))
            assert stub.GetServerInfo(influence_service_pb2.GetServerInfoRequest(), timeout=20, metadata=token).version
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetServerInfo(influence_service_pb2.GetServerInfoRequest(), timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    finally:
        running.terminate()
        assert running.wait(60) == 0


def test_help_names_every_setting() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.influence", "--help"],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    from services.influence.settings import InfluenceSettings

    for name, field in InfluenceSettings.model_fields.items():
        assert f"EIF_INFLUENCE_{name.upper()}" in done.stdout
        assert field.description
        assert field.description.split("\n")[0] in done.stdout


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with influence_process(tmp_path) as server:
        done = subprocess.run(
            [sys.executable, "-m", "services.influence", "--listen", server.address, "--state-dir", tmp_path / "other"],
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert "taken" in done.stderr
        with grpc.insecure_channel(server.address) as channel:
            grpc.channel_ready_future(channel).result(timeout=10)

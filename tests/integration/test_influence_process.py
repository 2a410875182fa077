"""The influence service as a process: how light it is, and what it says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from eif.influence.v1 import influence_service_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.conftest import REPO
from tests.influence_process import influence_process

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

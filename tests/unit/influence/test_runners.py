from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.common.settings import StorageSettings
from services.common.storage.router import open_store
from services.influence import runners
from services.influence.local_runner import LocalRunner
from services.influence.ray_runner import RayRunner
from services.influence.runners import cluster_environ, open_runner
from services.influence.settings import InfluenceSettings

STORAGE = StorageSettings.model_validate(
    {
        "s3_endpoint": "https://store:8333",
        "s3_access_key": "the-access-key",
        "s3_secret_key": "the-secret-key",
        "s3_session_token": "the-session-token",
        "s3_ca_file": "/etc/of-this-machine.pem",
        "allowed_prefixes": "s3://b/",
    }
)


def settings(tmp_path: Path, **values: object) -> InfluenceSettings:
    return InfluenceSettings.model_validate({"state_dir": tmp_path, **values})


def test_jobs_run_here_unless_a_cluster_is_set(tmp_path: Path) -> None:
    store = open_store(StorageSettings())
    assert isinstance(open_runner(settings(tmp_path), STORAGE, {}, store=store), LocalRunner)
    on_cluster = settings(tmp_path, ray_address="http://head:8265")
    assert isinstance(open_runner(on_cluster, STORAGE, {}, store=store), RayRunner)


def test_a_memory_limit_is_the_budget_of_estimates_unless_there_is_another(tmp_path: Path) -> None:
    store, limited = open_store(StorageSettings()), settings(tmp_path, max_job_memory_bytes=1 << 30)
    name = "EIF_INFLUENCE_MEMORY_BUDGET_BYTES"
    for environ, expected in (({}, str(1 << 30)), ({name: "5"}, "5")):
        runner = open_runner(limited, STORAGE, environ, store=store)
        assert isinstance(runner, LocalRunner)
        assert runner._environ[name] == expected


def test_a_cluster_without_ray_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "find_spec", lambda _: None)
    with pytest.raises(ServiceError, match="extra `ray`") as caught:
        open_runner(
            settings(tmp_path, ray_address="http://head:8265"), STORAGE, {}, store=open_store(StorageSettings())
        )
    assert caught.value.reason == "ARGUMENT_INVALID"


def test_what_a_cluster_is_told_holds_no_secret_and_no_path_of_this_machine(tmp_path: Path) -> None:
    environ = {
        "EIF_INFLUENCE_CACHE_SHARD_SAMPLES": "64",
        "EIF_INFLUENCE_DATABASE_URL": "postgresql://u:the-password@h/d",
        "AWS_SECRET_ACCESS_KEY": "the-aws-key",
        "HOME": "/home/of-this-machine",
    }
    told = cluster_environ(settings(tmp_path, shards_in_flight=5), STORAGE, environ)
    assert told == {
        "EIF_INFLUENCE_EMBEDDING_TLS": "false",
        "EIF_INFLUENCE_CACHE_SHARD_SAMPLES": "64",
        "EIF_INFLUENCE_EXECUTOR": "ray",
        "EIF_INFLUENCE_SHARDS_IN_FLIGHT": "5",
        "EIF_STORAGE_S3_ENDPOINT": "store:8333",
        "EIF_STORAGE_S3_REGION": "us-east-1",
        "EIF_STORAGE_S3_SECURE": "true",
        "EIF_STORAGE_ALLOWED_PREFIXES": '["s3://b/"]',
        "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
    }


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "127.0.0.1"])
def test_the_address_is_that_of_the_job_server(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="http://"):
        settings(tmp_path, ray_address=address)


def test_a_cluster_is_told_where_traces_go_but_not_with_which_key(tmp_path: Path) -> None:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=the-key",
    }
    told = cluster_environ(settings(tmp_path), STORAGE, environ)
    assert {name: value for name, value in told.items() if name.startswith("OTEL_")} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"
    }

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.common.errors import ServiceError
from services.influence.embedding_connection import EmbeddingConnection
from services.influence.settings import InfluenceSettings
from services.influence.worker.settings import WorkerSettings


def test_the_job_process_reads_what_the_server_was_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token")
    for given in (
        {"embedding_target": "embedding:50052", "embedding_tls": True, "embedding_token_file": token},
        {
            "embedding_target": "embedding:50052",
            "embedding_ca_file": tmp_path / "ca",
            "embedding_certificate_file": tmp_path / "certificate",
            "embedding_key_file": tmp_path / "key",
        },
        {},
    ):
        settings = InfluenceSettings.model_validate({**given, "cache_uri_prefix": "s3://b/cache"})
        environ = settings.job_environ()
        assert "secret-token" not in str(environ)
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            worker = WorkerSettings()
        for name in EmbeddingConnection.model_fields:
            assert getattr(worker, name) == getattr(settings, name)
        assert worker.cache_uri_prefix == "s3://b/cache"
        assert worker.embedding_credentials == settings.embedding_credentials


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"embedding_certificate_file": "a"}, "go together"),
        ({"embedding_token_file": "/no/such/file"}, "/no/such/file cannot be read"),
        ({"embedding_target": "embedding:50052", "embedding_token_file": __file__}, "holds no token"),
    ],
)
def test_a_server_does_not_start_with_what_its_jobs_could_not_use(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ServiceError, match=why) as caught:
        InfluenceSettings.model_validate(given).check_embedding()
    assert caught.value.reason == "ARGUMENT_INVALID"


def test_a_token_is_not_for_plain_text(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret-token")
    values = {"embedding_token_file": token, "embedding_target": "embedding:50052"}
    with pytest.raises(ServiceError, match="plain text"):
        InfluenceSettings.model_validate(values).check_embedding()
    InfluenceSettings.model_validate({**values, "embedding_tls": True}).check_embedding()
    InfluenceSettings.model_validate({**values, "embedding_target": "127.0.0.1:50052"}).check_embedding()


def test_settings_left_empty_are_not_set() -> None:
    settings = InfluenceSettings.model_validate({"embedding_target": "", "embedding_ca_file": ""})
    assert (settings.embedding_target, settings.embedding_ca_file) == (None, None)

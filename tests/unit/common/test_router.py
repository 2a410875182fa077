from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.common.settings import StorageSettings
from services.common.storage.router import open_store
from services.common.storage.uris import file_uri


def why_not(store_settings: StorageSettings, uri: str) -> str:
    with pytest.raises(ServiceError) as caught:
        open_store(store_settings).head(uri)
    assert caught.value.reason == "URI_NOT_ALLOWED"
    return caught.value.message


def test_a_missing_configuration_is_named() -> None:
    settings = StorageSettings()
    assert "EIF_STORAGE_S3_ENDPOINT" in why_not(settings, "s3://bucket/key")
    assert "EIF_STORAGE_FILE_ROOTS" in why_not(settings, "file:///data/name")


@pytest.mark.parametrize(
    "uri", ["http://host/x", "https://host/x", "ftp://h/x", "gs://b/k", "/data/name", "name", "", "S3://b/k", "file:/x"]
)
def test_other_schemes_are_refused_and_told_what_is_enabled(tmp_path: Path, uri: str) -> None:
    settings = StorageSettings(file_roots=(tmp_path,), s3_endpoint="localhost:1")
    assert "enabled here: file:// and s3://" in why_not(settings, uri)


def test_only_allowed_prefixes_pass(tmp_path: Path) -> None:
    allowed = file_uri(tmp_path / "allowed")
    settings = StorageSettings(file_roots=(tmp_path,), allowed_prefixes=(allowed,))
    store = open_store(settings)

    store.put(f"{allowed}/name", b"content")
    assert [info.uri for info in store.list(f"{allowed}/")] == [f"{allowed}/name"]
    for uri in (f"{allowed}-not/name", file_uri(tmp_path / "name"), "file:///etc/passwd"):
        message = why_not(settings, uri)
        assert "EIF_STORAGE_ALLOWED_PREFIXES" in message
        assert f"{allowed}/" in message
    with pytest.raises(ServiceError, match="is not allowed"):
        store.list(file_uri(tmp_path) + "/")


def test_a_parent_folder_does_not_lead_out_of_an_allowed_prefix(tmp_path: Path) -> None:
    allowed = file_uri(tmp_path / "allowed")
    settings = StorageSettings(file_roots=(tmp_path,), allowed_prefixes=(allowed,))
    assert "'..' segment" in why_not(settings, f"{allowed}/../name")


def test_a_local_store_does_not_load_the_s3_sdk(tmp_path: Path) -> None:
    program = (
        "import sys; from services.common.settings import StorageSettings; "
        "from services.common.storage.router import open_store; "
        f"open_store(StorageSettings(file_roots=({str(tmp_path)!r},))); "
        "sys.exit('minio' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

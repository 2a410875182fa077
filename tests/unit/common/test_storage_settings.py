from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from services.common.settings import StorageSettings
from tests.conftest import REPO

FULL = StorageSettings(
    s3_endpoint="store:9000",
    s3_access_key="key",
    s3_secret_key=SecretStr("very secret"),
    s3_session_token=SecretStr("token"),
    s3_region="eu-west-1",
    s3_secure=False,
    s3_ca_file=Path("/ca.pem"),
    file_roots=(Path("/data: a"), Path("/b")),
    allowed_prefixes=("s3://bucket/a,b/", "file:///b"),
)


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("EIF_STORAGE_")]:
        monkeypatch.delenv(name)


def test_nothing_is_open_by_default() -> None:
    assert StorageSettings().schemes == ()
    assert StorageSettings().s3_secure


def test_lists_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EIF_STORAGE_FILE_ROOTS", "/data: /more")
    monkeypatch.setenv("EIF_STORAGE_ALLOWED_PREFIXES", "s3://a/b, s3://c")
    settings = StorageSettings()
    assert settings.file_roots == (Path("/data"), Path("/more"))
    assert settings.allowed_prefixes == ("s3://a/b", "s3://c")
    assert settings.schemes == ("file",)


@pytest.mark.parametrize("settings", [FULL, StorageSettings(file_roots=(Path("/data"),))])
def test_a_child_process_reads_the_same_settings(settings: StorageSettings) -> None:
    program = "from services.common.settings import StorageSettings; print(StorageSettings().model_dump_json())"
    child = subprocess.run(
        [sys.executable, "-c", program], env=settings.to_environ(), check=True, capture_output=True, text=True
    )
    assert child.stdout.strip() == settings.model_dump_json()


def test_secrets_reach_the_child_but_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FULL.to_environ().items():
        monkeypatch.setenv(name, value)
    again = StorageSettings()
    assert again == FULL
    assert again.s3_secret_key is not None
    assert again.s3_secret_key.get_secret_value() == "very secret"
    assert "secret'" not in repr(FULL).replace("'s3_secret", "")
    assert "very secret" not in f"{FULL!r} {FULL} {FULL.model_dump_json()}"


@pytest.mark.parametrize(
    ("endpoint", "host", "secure"),
    [
        ("http://127.0.0.1:8333", "127.0.0.1:8333", False),
        ("https://s3.example.org/", "s3.example.org", True),
        ("s3.example.org", "s3.example.org", True),
    ],
)
def test_an_endpoint_may_be_a_url(endpoint: str, host: str, *, secure: bool) -> None:
    settings = StorageSettings(s3_endpoint=endpoint)
    assert (settings.s3_endpoint, settings.s3_secure) == (host, secure)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"s3_endpoint": "ftp://host"}, "not ftp://"),
        ({"s3_endpoint": "https://user:pw@host"}, "without path, user or query"),
        ({"s3_endpoint": "host/bucket"}, "without path, user or query"),
        ({"s3_endpoint": "host", "s3_access_key": "a"}, "go together"),
        ({"s3_endpoint": "host", "s3_secret_key": "a"}, "go together"),
        ({"s3_access_key": "a", "s3_secret_key": "b", "s3_credentials_file": "/c"}, "stands in for"),
        ({"file_roots": "relative"}, "not absolute"),
        ({"allowed_prefixes": "http://x"}, "must start with s3:// or file:///"),
    ],
)
def test_settings_that_are_refused(values: dict[str, str], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        StorageSettings.model_validate(values)


def test_the_operations_manual_lists_every_setting_and_its_default() -> None:
    manual = (REPO / "docs" / "operations.md").read_text()
    listed = dict(re.findall(r"^\| `EIF_STORAGE_([A-Z0-9_]+)` \| (.+?) \| .+ \|$", manual, re.MULTILINE))
    defaults = {name.upper(): field.default for name, field in StorageSettings.model_fields.items()}
    words = {None: "unset", (): "empty", True: "`true`"}
    assert listed == {name: words.get(value, f"`{value}`") for name, value in defaults.items()}

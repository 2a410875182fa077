from __future__ import annotations

from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.common.redaction import redactor
from services.common.settings import StorageSettings
from services.common.storage.s3_credentials import credentials_of


def keys(number: int, *, token: str = "") -> str:
    session = f"aws_session_token = {token}\n" if token else ""
    both = f"aws_access_key_id = AKIATEST{number}\naws_secret_access_key=a%b/+{number}\n"
    return f"[other]\nx = 1\n[default]\n{both}{session}"


def replace(path: Path, text: str) -> None:
    """As a mounted secret is: another file takes the name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text(keys(1, token="t"))
    provider = credentials_of(StorageSettings(s3_credentials_file=path))
    assert provider is not None
    first = provider.retrieve()
    assert (first.access_key, first.secret_key, first.session_token) == ("AKIATEST1", "a%b/+1", "t")
    replace(path, keys(2))
    second = provider.retrieve()
    assert (second.access_key, second.secret_key, second.session_token) == ("AKIATEST2", "a%b/+2", None)
    replace(path, "half a fi")
    assert provider.retrieve().access_key == "AKIATEST2"
    path.unlink()
    assert provider.retrieve().access_key == "AKIATEST2"
    path.write_text(keys(3))
    assert provider.retrieve().access_key == "AKIATEST3"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "No such file"),
        ("s3cret\n", "it is no INI file"),
        ("[default]\ns3cret\n", "it is no INI file"),
        ("[other]\naws_access_key_id = s3cret\n", r"no section \[default\]"),
        ("[default]\naws_secret_access_key = s3cret\n", "must have aws_access_key_id"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_without_what_is_in_it(tmp_path: Path, text: str | None, why: str) -> None:
    path = tmp_path / "credentials"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ServiceError, match=why) as caught:
        credentials_of(StorageSettings(s3_credentials_file=path))
    assert caught.value.reason == "ARGUMENT_INVALID"
    assert str(path) in caught.value.message
    assert "s3cret" not in repr(caught.value)


def test_settings_that_hold_keys_or_none() -> None:
    assert credentials_of(StorageSettings()) is None
    held = StorageSettings.model_validate({"s3_access_key": "a", "s3_secret_key": "b", "s3_session_token": "c"})
    provider = credentials_of(held)
    assert provider is not None
    found = provider.retrieve()
    assert (found.access_key, found.secret_key, found.session_token) == ("a", "b", "c")


def test_what_is_read_is_told_nowhere(tmp_path: Path) -> None:
    path, clean = tmp_path / "credentials", redactor([])
    path.write_text(keys(7, token="session-of-7"))
    provider = credentials_of(StorageSettings(s3_credentials_file=path))
    assert provider is not None
    provider.retrieve()
    replace(path, keys(8))
    provider.retrieve()
    told = clean({"message": "AKIATEST7 and AKIATEST8 with a%b/+7, a%b/+8 and session-of-7 were refused"})
    assert told == {"message": "*** and *** with ***, *** and *** were refused"}

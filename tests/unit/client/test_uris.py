from __future__ import annotations

from pathlib import Path

import pytest

from services.client.cli.failures import InputError
from services.client.cli.uris import is_uri, to_uri


@pytest.mark.parametrize("uri", ["s3://bucket/key", "file:///a/b", "S3://b/k", "https://x/y"])
def test_uris_stay_as_they_are(uri: str) -> None:
    assert is_uri(uri)
    assert to_uri(uri) == uri


def test_paths_become_absolute_literal_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my model 100%").mkdir()
    (tmp_path / "train.csv").write_text("id,uri,label\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "train.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert to_uri("my model 100%") == f"file://{tmp_path.resolve()}/my model 100%"
    assert to_uri("./train.csv") == f"file://{tmp_path.resolve()}/train.csv"
    assert to_uri("link.csv") == f"file://{tmp_path.resolve()}/train.csv"
    assert to_uri("~/train.csv") == f"file://{tmp_path.resolve()}/train.csv"


def test_a_path_that_is_not_there_is_said_at_once() -> None:
    with pytest.raises(InputError, match=r"no-such\.csv: no such file or folder here"):
        to_uri("no-such.csv")

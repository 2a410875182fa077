from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eif_engine.errors import ModelBundleInvalid, OnnxInvalid
from services.common.errors import ServiceError
from services.embedding.bundles import fetch_bundle, file_sha256, is_intact
from tests.onnx_bundles import external, network, write_bundle
from tests.stores import local_place

if TYPE_CHECKING:
    from pathlib import Path

    from tests.stores import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    model = network()
    write_bundle(tmp_path / "store" / "bundle", model, data={"w.bin": external(model, location="w.bin")})
    (tmp_path / "store" / "bundle" / "other.txt").write_text("not part of it")
    return local_place(tmp_path / "store")


def fetch(place: Place, folder: Path, name: str = "bundle", *, sha256: str | None = None, most: int = 1 << 20) -> str:
    return fetch_bundle(place.store, place.uri(name), folder, sha256=sha256, max_bytes=most)


@pytest.mark.parametrize("name", ["bundle", "bundle/", "bundle/onnx.json"])
def test_exactly_what_the_json_names_is_fetched(place: Place, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "private" / "uid"
    digest = fetch(place, folder, name)
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "onnx.json", "w.bin"]
    assert digest == file_sha256(tmp_path / "store" / "bundle" / "onnx.json")
    assert folder.stat().st_mode & 0o077 == 0
    assert is_intact(folder, digest)


def test_an_expected_digest_holds(place: Place, tmp_path: Path) -> None:
    digest = fetch(place, tmp_path / "a")
    assert fetch(place, tmp_path / "b", sha256=digest) == digest
    with pytest.raises(ServiceError, match=r"onnx\.json") as caught:
        fetch(place, tmp_path / "c", sha256="0" * 64)
    assert caught.value.reason == "OBJECT_DIGEST_MISMATCH"


def test_a_file_that_is_not_the_one_named_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "store" / "bundle" / "w.bin").write_bytes(b"something else")
    with pytest.raises(ServiceError, match=r"w\.bin") as caught:
        fetch(place, tmp_path / "a")
    assert caught.value.reason == "OBJECT_DIGEST_MISMATCH"


def test_a_file_that_is_missing_is_named(place: Place, tmp_path: Path) -> None:
    (tmp_path / "store" / "bundle" / "w.bin").unlink()
    with pytest.raises(ServiceError, match=r"bundle/w\.bin is not there, but onnx\.json beside it names it") as caught:
        fetch(place, tmp_path / "a")
    assert caught.value.reason == "OBJECT_NOT_FOUND"
    with pytest.raises(ServiceError, match=r"nothing/onnx\.json"):
        fetch(place, tmp_path / "a", "nothing")


def test_files_over_the_limit_are_refused_before_any_is_copied(place: Place, tmp_path: Path) -> None:
    with pytest.raises(OnnxInvalid, match="over this server's limit of 100"):
        fetch(place, tmp_path / "a", most=100)
    assert not (tmp_path / "a").exists()


def test_a_json_that_breaks_its_schema_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "store" / "bundle" / "onnx.json").write_text('{"onnx": {"file": "../x.onnx", "sha256": "0"}}')
    with pytest.raises(ModelBundleInvalid, match=r"bundle/onnx\.json: onnx\.file"):
        fetch(place, tmp_path / "a")


@pytest.mark.parametrize("name", ["model.onnx", "w.bin", "onnx.json"])
def test_damage_on_this_machine_is_noticed(place: Place, tmp_path: Path, name: str) -> None:
    digest = fetch(place, tmp_path / "a")
    path = tmp_path / "a" / name
    path.write_bytes(path.read_bytes() + b" ")
    assert not is_intact(tmp_path / "a", digest)
    path.unlink()
    assert not is_intact(tmp_path / "a", digest)
    assert not is_intact(tmp_path / "never", digest)

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from eif_engine.data.manifest import ManifestLimits
from eif_engine.errors import ManifestInvalid
from services.common.errors import ServiceError
from services.common.manifests import fetch_manifest
from tests.stores import Place, local_place, s3_place

CSV = b"id,uri,label,source\na,s3://b/a.png,cat,web\nb,s3://b/b.png,dog,shop\n"
JSONL = b'{"id": "a", "uri": "s3://b/a.png", "label": "cat"}\n'


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "s3":
        return s3_place(request.getfixturevalue("weed"))
    return local_place(request.getfixturevalue("tmp_path") / "root")


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [("m.csv", CSV, ["a", "b"]), ("m.jsonl", JSONL, ["a"]), ("M.JSONL.GZ", gzip.compress(JSONL, mtime=0), ["a"])],
)
def test_a_manifest_is_fetched_checked_and_read(
    place: Place, tmp_path: Path, name: str, content: bytes, ids: list[str]
) -> None:
    uri, digest = place.uri(name), hashlib.sha256(content).hexdigest()
    place.store.put(uri, content)
    for expected in (None, digest):
        found, samples = fetch_manifest(place.store, uri, expected, tmp_path / "scratch")
        assert found == digest
        assert [sample.sample_id for sample in samples] == ids


def test_two_manifests_share_a_scratch_folder(place: Place, tmp_path: Path) -> None:
    place.store.put(place.uri("train.csv"), CSV)
    place.store.put(place.uri("test.csv"), CSV.replace(b"\na,", b"\nc,"))
    _, train = fetch_manifest(place.store, place.uri("train.csv"), None, tmp_path)
    _, test = fetch_manifest(place.store, place.uri("test.csv"), None, tmp_path)
    assert [sample.sample_id for sample in train] == ["a", "b"]
    assert [sample.sample_id for sample in test] == ["c", "b"]


def test_a_bad_row_names_the_uri_and_not_the_copy(place: Place, tmp_path: Path) -> None:
    uri = place.uri("m.csv")
    place.store.put(uri, CSV + b"c,,cat,web\n")
    _, samples = fetch_manifest(place.store, uri, None, tmp_path / "scratch")
    with pytest.raises(ManifestInvalid, match="line 4") as caught:
        list(samples)
    assert caught.value.metadata["uri"] == uri
    assert "scratch" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "sha256", "max_bytes", "reason"),
    [
        ("missing.csv", None, 100, "OBJECT_NOT_FOUND"),
        ("m.csv", "0" * 64, 100, "OBJECT_DIGEST_MISMATCH"),
        ("m.csv", None, 10, "OBJECT_TOO_LARGE"),
    ],
)
def test_faults_of_the_object_are_told_at_once(
    place: Place, tmp_path: Path, name: str, sha256: str | None, max_bytes: int, reason: str
) -> None:
    place.store.put(place.uri("m.csv"), CSV)
    with pytest.raises(ServiceError) as caught:
        fetch_manifest(place.store, place.uri(name), sha256, tmp_path, max_bytes=max_bytes)
    assert caught.value.reason == reason


def test_another_format_is_refused_by_name(place: Place, tmp_path: Path) -> None:
    place.store.put(place.uri("m.xlsx"), CSV)
    with pytest.raises(ManifestInvalid, match=r"\.parquet, \.jsonl"):
        list(fetch_manifest(place.store, place.uri("m.xlsx"), None, tmp_path)[1])


def test_limits_reach_the_reader(place: Place, tmp_path: Path) -> None:
    place.store.put(place.uri("m.csv"), CSV)
    with pytest.raises(ManifestInvalid):
        list(fetch_manifest(place.store, place.uri("m.csv"), None, tmp_path, limits=ManifestLimits(max_rows=1))[1])

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eif_engine.config import NeighborSpace
from services.common.errors import ServiceError
from services.embedding.names import Name
from services.embedding.stored_index import (
    IndexManifest,
    delete_stored_index,
    folder_uri,
    manifest_uri,
    open_stored_index,
    read_index_manifest,
    store_index,
    vectors_entry,
)
from services.embedding.stored_vectors import VectorsWriter, read_vectors
from services.embedding.vectors import normalize
from tests.stores import local_place

if TYPE_CHECKING:
    from pathlib import Path

    from services.embedding.vectors import Float32
    from tests.stores import Place

IDS = [f"s{number}" for number in range(70)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "store").mkdir()
    return local_place(tmp_path / "store")


def vectors() -> Float32:
    return normalize(np.random.default_rng(0).standard_normal((len(IDS), 5)))


def stored(place: Place, scratch: Path) -> tuple[str, str]:
    """An index in the store: the URI of its folder, and the sha256 of its manifest."""
    path = scratch / "written.parquet"
    with VectorsWriter(path, dim=5) as writer:
        writer.append(IDS, ["x"] * len(IDS), vectors())
    manifest = IndexManifest(
        name="projects/p/indexes/i",
        uid="u",
        model="projects/p/models/m",
        model_sha256="0" * 64,
        weights_sha256="1" * 64,
        manifest_uri="s3://b/m.csv",
        manifest_sha256="2" * 64,
        space=NeighborSpace.EMBEDDING,
        dim=5,
        samples_total=70,
        samples_quarantined=0,
        quarantined=(),
        vectors=vectors_entry(path, len(IDS)),
        execution_provider="CPUExecutionProvider",
        software_version="0",
    )
    folder = folder_uri(place.base, Name(project="p", collection="indexes", id="i"), "u")
    return folder, store_index(place.store, folder, path, manifest)


def test_an_index_comes_back_and_leaves_nothing_on_this_machine(place: Place, tmp_path: Path) -> None:
    folder, sha256 = stored(place, tmp_path)
    assert folder == place.uri("p/i/u")
    scratch = tmp_path / "scratch.parquet"
    index = open_stored_index(place.store, folder, sha256=sha256, scratch=scratch, threads=1)
    assert (len(index), index.dim) == (70, 5)
    np.testing.assert_array_equal(index.vector("s33"), vectors()[33])
    assert not scratch.exists()
    manifest, digest = read_index_manifest(place.store, folder)
    assert (digest, manifest.vectors.rows) == (sha256, 70)


def test_deleting_removes_everything_the_manifest_first(place: Place, tmp_path: Path) -> None:
    folder, _ = stored(place, tmp_path)
    neighbour = place.uri("p/i/u2/MANIFEST.json")
    place.store.put(neighbour, b"{}")
    delete_stored_index(place.store, folder)
    delete_stored_index(place.store, folder)
    assert [item.uri for item in place.store.list(place.uri(""))] == [neighbour]


def fault(place: Place, folder: str, sha256: str, tmp_path: Path) -> ServiceError:
    scratch = tmp_path / "scratch.parquet"
    with pytest.raises(ServiceError) as caught:
        open_stored_index(place.store, folder, sha256=sha256, scratch=scratch, threads=1)
    assert not scratch.exists()
    return caught.value


def test_what_was_changed_or_lost_is_refused(place: Place, tmp_path: Path) -> None:
    folder, sha256 = stored(place, tmp_path)
    data = place.store.read(f"{folder}/vectors.parquet", max_bytes=1 << 20)
    place.store.put(f"{folder}/vectors.parquet", data[:-1] + bytes([data[-1] ^ 1]))
    assert fault(place, folder, sha256, tmp_path).reason == "OBJECT_DIGEST_MISMATCH"
    place.store.put(f"{folder}/vectors.parquet", data + b"x")
    assert fault(place, folder, sha256, tmp_path).reason in {"OBJECT_TOO_LARGE", "OBJECT_DIGEST_MISMATCH"}
    place.store.delete(f"{folder}/vectors.parquet")
    assert fault(place, folder, sha256, tmp_path).reason == "OBJECT_NOT_FOUND"
    place.store.put(manifest_uri(folder), b"{}")
    assert fault(place, folder, sha256, tmp_path).reason == "OBJECT_DIGEST_MISMATCH"


def test_a_manifest_that_is_none_is_refused(place: Place, tmp_path: Path) -> None:
    folder, _ = stored(place, tmp_path)
    place.store.put(manifest_uri(folder), b'{"schema_version": 2}')
    with pytest.raises(ServiceError, match=r"MANIFEST\.json is not the manifest of an index") as caught:
        read_index_manifest(place.store, folder)
    assert caught.value.reason == "RESULT_CORRUPT"


def test_vectors_that_do_not_fit_their_manifest_are_refused(place: Place, tmp_path: Path) -> None:
    folder, _ = stored(place, tmp_path)
    fields = json.loads(place.store.read(manifest_uri(folder), max_bytes=1 << 20))
    fields["vectors"]["rows"] = 69
    place.store.put(manifest_uri(folder), json.dumps(fields).encode())
    _, sha256 = read_index_manifest(place.store, folder)
    error = fault(place, folder, sha256, tmp_path)
    assert error.reason == "RESULT_CORRUPT"
    assert "holds 70 vectors of size 5, its manifest says 69 of 5" in error.message


def test_files_that_are_no_vectors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    path.write_bytes(b"no parquet")
    with pytest.raises(ServiceError, match=r"v\.parquet cannot be read"):
        read_vectors(path)
    pq.write_table(pa.table({"id": ["a"], "label": ["b"], "vector": [[1.0]]}), path)
    with pytest.raises(ServiceError, match="does not have the columns"):
        read_vectors(path)
    with VectorsWriter(path, dim=2) as writer:
        writer.append(["a"], ["b"], np.array([[1, np.nan]], dtype=np.float32))
    with pytest.raises(ServiceError, match="not finite"):
        read_vectors(path, uri="s3://b/v.parquet")


def test_a_large_file_is_written_in_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.embedding.stored_vectors.ROW_GROUP_ROWS", 20)
    rows_ND = vectors()
    with VectorsWriter(tmp_path / "v.parquet", dim=5) as writer:
        for start in range(0, 70, 8):
            writer.append(IDS[start : start + 8], ["x"] * len(IDS[start : start + 8]), rows_ND[start : start + 8])
    assert pq.ParquetFile(tmp_path / "v.parquet").num_row_groups == 3
    back = read_vectors(tmp_path / "v.parquet")
    assert back.sample_ids == IDS
    np.testing.assert_array_equal(back.vectors_ND, rows_ND)

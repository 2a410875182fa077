from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eif_engine.types import Quarantined, Sample
from services.common.errors import ServiceError
from services.common.samples import SampleLimits, read_samples
from services.common.storage.local import LocalStore
from services.common.storage.uris import file_uri
from services.common.tar_index import index_tar
from services.common.tars import TarCache
from tests.stores import Place, local_place, s3_place


def tar_of(files: dict[str, bytes], format_: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def one_header(name: str, **fields: object) -> bytes:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.USTAR_FORMAT)


class CountingStore(LocalStore):
    """Counts downloads."""

    def __init__(self, root: Path) -> None:
        super().__init__([root])
        self.downloads: Counter[str] = Counter()
        self.on_download: Callable[[], None] = lambda: None

    def download(self, uri: str, path: Path, *, max_bytes: int, sha256: str | None = None) -> str:
        self.downloads[uri] += 1
        self.on_download()
        return super().download(uri, path, max_bytes=max_bytes, sha256=sha256)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return file_uri(tmp_path / "samples.tar")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def row(uri: str, member: str, sha256: str | None = None) -> Sample:
    return Sample(sample_id=member, uri=uri, label="label", member=member, sha256=sha256)


def outcomes(store: LocalStore, rows: list[Sample], limits: SampleLimits | None = None) -> list[bytes | str]:
    reads = read_samples(store, rows, limits=limits or SampleLimits(), workers=4)
    return [data.reason if isinstance(data, Quarantined) else data for _, data in reads]


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_rows_of_a_tar_on_each_store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    place: Place = s3_place(request.getfixturevalue("weed")) if kind == "s3" else local_place(tmp_path)
    files = {f"image-{number}.png": bytes([number]) * 1000 for number in range(50)}
    place.store.put(place.uri("samples.tar"), tar_of(files))
    rows = [row(place.uri("samples.tar"), name, hashlib.sha256(data).hexdigest()) for name, data in files.items()]
    assert [data for _, data in read_samples(place.store, rows)] == list(files.values())


def test_a_tar_is_downloaded_once_whatever_is_asked_of_it(store: CountingStore, uri: str) -> None:
    store.put(uri, tar_of({"a": b"1", "b": b"22"}))
    found = outcomes(store, [row(uri, name) for name in ["a", "b", "missing", "a", "./b"] * 20])
    assert found == [b"1", b"22", "OBJECT_NOT_FOUND", b"1", b"22"] * 20
    assert store.downloads == {uri: 1}


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_format_of_tar(store: CountingStore, uri: str, format_: int) -> None:
    long = "folder/" * 20 + "image.png"  # needs a header of its own in GNU and PAX
    names = ["plain", "./dotted", long if format_ != tarfile.USTAR_FORMAT else "other", "empty"]
    files = {name: name.encode() if name != "empty" else b"" for name in names}
    store.put(uri, tar_of(files, format_))
    assert outcomes(store, [row(uri, name) for name in names]) == list(files.values())


def test_of_a_name_used_twice_the_last_counts(store: CountingStore, uri: str) -> None:
    store.put(uri, tar_of({"name": b"first"})[:1024] + tar_of({"name": b"last"}))
    assert outcomes(store, [row(uri, "name")]) == [b"last"]


def test_a_tar_without_its_end_mark_is_read(store: CountingStore, uri: str) -> None:
    store.put(uri, tar_of({"name": b"content"})[:1024])
    assert outcomes(store, [row(uri, "name")]) == [b"content"]


def test_faults_of_one_row(store: CountingStore, uri: str) -> None:
    store.put(uri, tar_of({"good": b"good", "large": b"x" * 101}))
    rows = [row(uri, "good", "0" * 64), row(uri, "large"), row(uri, "missing"), row(uri, "good"), row(f"{uri}x", "a")]
    limits = SampleLimits(max_sample_bytes=100)
    assert outcomes(store, rows, limits) == [
        "OBJECT_DIGEST_MISMATCH",
        "OBJECT_TOO_LARGE",
        "OBJECT_NOT_FOUND",
        b"good",
        "OBJECT_NOT_FOUND",
    ]


def test_messages_name_the_tar_and_the_member(store: CountingStore, uri: str, scratch: Path) -> None:
    store.put(uri, tar_of({"good": b"good"}))
    cache = TarCache(store, scratch, SampleLimits())
    with pytest.raises(ServiceError, match="there is no absent in") as caught:
        cache.read(uri, "absent")
    assert uri in caught.value.message


def test_a_tar_above_the_limit_is_not_downloaded(store: CountingStore, uri: str) -> None:
    store.put(uri, tar_of({"a": b"1"}))
    assert outcomes(store, [row(uri, "a")] * 3, SampleLimits(max_tar_bytes=100)) == ["OBJECT_TOO_LARGE"] * 3
    assert not store.downloads


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("link", tarfile.SYMTYPE),
        ("hard", tarfile.LNKTYPE),
        ("folder", tarfile.DIRTYPE),
        ("pipe", tarfile.FIFOTYPE),
        ("device", tarfile.CHRTYPE),
    ],
)
def test_only_plain_files_are_samples(store: CountingStore, uri: str, name: str, type_: bytes, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    special = one_header(name, type=type_, linkname=str(tmp_path / "secret"))
    store.put(uri, special + tar_of({"good": b"good"}))
    assert outcomes(store, [row(uri, name), row(uri, "good")]) == ["ARCHIVE_INVALID", b"good"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../../escape", "a/../../escape"])
def test_a_path_in_a_tar_is_only_a_name(store: CountingStore, uri: str, scratch: Path, name: str) -> None:
    store.put(uri, tar_of({name: b"content"}))
    cache = TarCache(store, scratch, SampleLimits())
    assert cache.read(uri, name) == b"content"
    assert [path.name for path in scratch.iterdir()] == ["1.tar"]


def _with_checksum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _claiming(size: bytes, type_: bytes = tarfile.REGTYPE) -> bytes:
    header = bytearray(one_header("name", type=type_))
    header[124:136] = size
    return _with_checksum(header)


GOOD = tar_of({"good": b"good" * 300})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"not a tar at all" * 100, "bad checksum|invalid header|truncated"),
        (gzip.compress(GOOD, mtime=0), "compressed"),
        (GOOD[:1000], "cut off"),
        (GOOD[:300], "truncated header"),
        (GOOD[:2048] + b"\x01" * 512 + GOOD, "bad checksum|invalid header"),
        (_claiming(b"77777777777\0"), "cut off"),
        (_claiming(b"\xff" * 12), "claims -1 bytes"),
        (_claiming(b"00004000000\0", tarfile.XHDTYPE) + b"\0" * (1 << 20), "claims 1048576 bytes"),
        (_claiming(b"00004000000\0", tarfile.GNUTYPE_LONGNAME) + b"x" * (1 << 20), "claims 1048576 bytes"),
        (_claiming(b"00000000000\0", tarfile.GNUTYPE_SPARSE), "sparse"),
    ],
)
def test_what_is_no_tar_is_quarantined_and_told_why(store: CountingStore, uri: str, data: bytes, why: str) -> None:
    store.put(uri, data)
    found = [each for _, each in read_samples(store, [row(uri, "good")] * 3)]
    for each in found:
        assert isinstance(each, Quarantined)
        assert each.reason == "ARCHIVE_INVALID"
        assert uri in each.message
    with pytest.raises(ServiceError, match=why):
        TarCache(store, Path(uri.removeprefix("file://")).parent, SampleLimits()).read(uri, "good")
    assert store.downloads[uri] == 2


def test_a_gnu_sparse_member_is_refused_and_the_rest_read(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("sparse")
        info.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.map": "0,1",
            "GNU.sparse.size": "9",
        }
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
        plain = tarfile.TarInfo("plain")
        plain.size = 1
        tar.addfile(plain, io.BytesIO(b"y"))
    path = tmp_path / "sparse.tar"
    path.write_bytes(buffer.getvalue())
    members = index_tar(path, "file:///sparse.tar")
    assert members["sparse"].size is None
    assert members["plain"].size == 1


def test_scratch_stays_within_its_limit_and_evicted_tars_come_back(
    store: CountingStore, tmp_path: Path, scratch: Path
) -> None:
    uris = [file_uri(tmp_path / f"{number}.tar") for number in range(4)]
    for number, each in enumerate(uris):
        store.put(each, tar_of({"a": bytes([number]) * 1000}))
    size = len(tar_of({"a": b"x" * 1000}))
    cache = TarCache(store, scratch, SampleLimits(max_scratch_bytes=2 * size))

    for number, each in enumerate([*uris, uris[0], uris[3]]):
        assert cache.read(each, "a") == bytes([number % 4 if number < 5 else 3]) * 1000
        assert sum(path.stat().st_size for path in scratch.iterdir()) <= 2 * size
    assert store.downloads == {uris[0]: 2, uris[1]: 1, uris[2]: 1, uris[3]: 1}


def test_many_threads_share_little_scratch(store: CountingStore, tmp_path: Path, scratch: Path) -> None:
    uris = [file_uri(tmp_path / f"{number}.tar") for number in range(6)]
    for number, each in enumerate(uris):
        store.put(each, tar_of({"a": bytes([number]) * 1000}))
    cache = TarCache(store, scratch, SampleLimits(max_scratch_bytes=2 * len(tar_of({"a": b"x" * 1000}))))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: cache.read(uris[number % 6], "a"), range(120)))
    assert found == [bytes([number % 6]) * 1000 for number in range(120)]


def test_threads_that_ask_together_wait_for_one_download(store: CountingStore, uri: str, scratch: Path) -> None:
    store.put(uri, tar_of({"a": b"content"}))
    together = threading.Barrier(8)
    store.on_download = lambda: time.sleep(0.05)
    cache = TarCache(store, scratch, SampleLimits())

    def read(_number: int) -> bytes:
        together.wait(10)
        return cache.read(uri, "a")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(8))) == [b"content"] * 8
    assert store.downloads == {uri: 1}


def test_an_outage_is_not_remembered(store: CountingStore, uri: str, scratch: Path) -> None:
    def outage() -> None:
        raise ServiceError("STORAGE_UNAVAILABLE", "gone")

    store.put(uri, tar_of({"a": b"content"}))
    cache = TarCache(store, scratch, SampleLimits())
    store.on_download = outage
    with pytest.raises(ServiceError, match="gone"):
        cache.read(uri, "a")
    store.on_download = lambda: None
    assert cache.read(uri, "a") == b"content"

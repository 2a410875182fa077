"""What only a folder can do: links, pipes, files changed in place, permissions."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.common.storage.local import LocalStore
from services.common.storage.uris import PARTIAL_PREFIX, file_uri


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore([root])


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(ServiceError) as caught:
        call()
    return caught.value.reason


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "../root-2/name"])
def test_links_that_leave_the_root_are_refused(store: LocalStore, root: Path, target: str) -> None:
    for folder in ("outside", "root-2"):
        (root.parent / folder).mkdir()
    (root.parent / "root-2" / "name").write_text("secret")
    (root / "link").symlink_to(target)
    uri = file_uri(root / "link")

    assert reason_of(lambda: store.read(uri, max_bytes=9)) == "URI_NOT_ALLOWED"
    assert reason_of(lambda: store.put(uri, b"x")) == "URI_NOT_ALLOWED"
    assert reason_of(lambda: store.put(f"{uri}/below", b"x")) == "URI_NOT_ALLOWED"
    assert reason_of(lambda: list(store.list(f"{uri}/"))) == "URI_NOT_ALLOWED"
    assert reason_of(lambda: store.delete(f"{uri}/name")) == "URI_NOT_ALLOWED"
    assert list(store.list(file_uri(root) + "/")) == []
    assert (root.parent / "root-2" / "name").read_text() == "secret"


def test_a_folder_beside_the_root_with_a_longer_name_is_refused(store: LocalStore, root: Path) -> None:
    uri = file_uri(root) + "-2/name"
    with pytest.raises(ServiceError, match="EIF_STORAGE_FILE_ROOTS") as caught:
        store.put(uri, b"x")
    assert uri in caught.value.message
    assert file_uri(root) in caught.value.message
    assert reason_of(lambda: list(store.list(file_uri(root)[:-1]))) == "URI_NOT_ALLOWED"


def test_links_within_the_root_are_followed(store: LocalStore, root: Path) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "name").write_text("content")
    (root / "link").symlink_to("folder")
    (root / "again").symlink_to("folder/name")

    assert store.read(file_uri(root / "link" / "name"), max_bytes=9) == b"content"
    assert store.read(file_uri(root / "again"), max_bytes=9) == b"content"
    assert [info.uri.rpartition("root/")[2] for info in store.list(file_uri(root) + "/")] == [
        "again",
        "folder/name",
        "link/name",
    ]


def test_deleting_a_link_keeps_what_it_points_to(store: LocalStore, root: Path) -> None:
    (root / "name").write_text("content")
    (root / "link").symlink_to("name")
    store.delete(file_uri(root / "link"))
    assert [info.uri for info in store.list(file_uri(root) + "/")] == [file_uri(root / "name")]


def test_links_that_go_in_circles(store: LocalStore, root: Path) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "up").symlink_to("..")
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    (root / "folder" / "name").write_text("content")

    assert [info.uri for info in store.list(file_uri(root) + "/")] == [file_uri(root / "folder" / "name")]
    assert reason_of(lambda: store.head(file_uri(root / "one"))) in {"URI_NOT_ALLOWED", "OBJECT_NOT_FOUND"}


def test_a_named_pipe_does_not_hang_the_reader(store: LocalStore, root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert reason_of(lambda: store.read(file_uri(root / "pipe"), max_bytes=9)) == "OBJECT_NOT_FOUND"
    assert list(store.list(file_uri(root) + "/")) == []


@pytest.mark.parametrize("change", ["replace", "overwrite", "truncate", "append", "delete"])
def test_a_file_changed_while_it_is_read_is_noticed(store: LocalStore, root: Path, change: str) -> None:
    path, uri = root / "name", file_uri(root / "name")
    store.put(uri, b"a" * 3_000_000)
    with store.open(uri) as stream:
        stream.read(10)
        _change(path, change)
        assert reason_of(stream.read) == "OBJECT_CHANGED"


def _change(path: Path, change: str) -> None:
    if change == "delete":
        path.unlink()
    elif change == "replace":
        other = path.with_name("other")
        other.write_bytes(b"b" * 3_000_000)
        other.replace(path)
    else:
        size = {"overwrite": 3_000_000, "truncate": 1000, "append": 3_000_001}[change]
        with path.open("r+b") as file:
            file.write(b"b" * size)
            file.truncate(size)


def test_a_write_that_fails_leaves_the_old_object_and_no_rest(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    uri = file_uri(root / "name")
    store.put(uri, b"old")
    monkeypatch.setattr("services.common.storage.local.os.fsync", full)

    with pytest.raises(ServiceError, match="No space left on device") as caught:
        store.put(uri, b"new")

    assert caught.value.reason == "STORAGE_UNAVAILABLE"
    assert [path.name for path in root.iterdir()] == ["name"]
    assert (root / "name").read_bytes() == b"old"


def test_what_is_being_written_is_not_an_object(store: LocalStore, root: Path) -> None:
    (root / f"{PARTIAL_PREFIX}rest").write_text("half")
    assert list(store.list(file_uri(root) + "/")) == []
    assert reason_of(lambda: store.head(file_uri(root / f"{PARTIAL_PREFIX}rest"))) == "URI_NOT_ALLOWED"


@pytest.mark.parametrize("name", ["folder", "folder/name/below", "folder/name/below/further", "x" * 300])
def test_names_that_the_file_system_cannot_take(store: LocalStore, root: Path, name: str) -> None:
    store.put(file_uri(root / "folder" / "name"), b"content")
    reason = reason_of(lambda: store.put(file_uri(root / name), b"x"))
    assert reason == "URI_NOT_ALLOWED"
    assert store.read(file_uri(root / "folder" / "name"), max_bytes=9) == b"content"


def test_a_file_without_permission_is_denied(store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests often run as root, who may read everything: the refusal is the operating system's, at its border."""

    def refuse(*_arguments: object, **_options: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    store.put(file_uri(root / "name"), b"content")
    monkeypatch.setattr("services.common.storage.local_files.os.open", refuse)
    assert reason_of(lambda: store.read(file_uri(root / "name"), max_bytes=9)) == "STORAGE_DENIED"


def test_a_percent_sign_gets_a_hint(store: LocalStore, root: Path) -> None:
    (root / "a b").write_text("content")
    with pytest.raises(ServiceError, match="taken literally"):
        store.head((root / "a b").as_uri())


def test_a_root_may_be_a_link_itself(tmp_path: Path, root: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    uri = file_uri(tmp_path / "alias" / "name")
    LocalStore([tmp_path / "alias"]).put(uri, b"content")
    assert (root / "name").read_bytes() == b"content"
    assert LocalStore([root]).read(uri, max_bytes=9) == b"content"


def test_an_object_may_be_read_by_whom_the_umask_allows(store: LocalStore, root: Path) -> None:
    store.put(file_uri(root / "object"), b"content")
    (root / "plain").write_bytes(b"content")
    assert (root / "object").stat().st_mode == (root / "plain").stat().st_mode

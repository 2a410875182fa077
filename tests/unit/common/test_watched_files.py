from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from services.common.errors import ServiceError
from services.common.followed_files import MAX_BYTES
from services.common.watched_files import WatchedFiles


def texts(contents: Sequence[bytes]) -> str:
    joined = b"+".join(contents).decode()
    if "bad" in joined:
        raise ValueError("it is bad")
    return joined


def written(path: Path, text: str) -> Path:
    """Replaced in one step, as an operator should."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)
    return path


def test_files_that_stay_are_read_once(tmp_path: Path) -> None:
    reads = []

    def parse(contents: Sequence[bytes]) -> list[bytes]:
        reads.append(contents)
        return list(contents)

    files = WatchedFiles([written(tmp_path / "a", "1")], parse, what="it")
    assert files.current() is files.current()
    assert reads == [[b"1"]]


def test_a_change_of_any_file_is_seen(tmp_path: Path) -> None:
    one, two = written(tmp_path / "one", "1"), written(tmp_path / "two", "2")
    files = WatchedFiles([one, two], texts, what="both")
    assert files.current() == "1+2"
    written(two, "3")
    assert files.current() == "1+3"
    one.write_text("4")  # in place
    assert files.current() == "4+3"


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    path = written(tmp_path / "a", "1")
    files = WatchedFiles([path], texts, what="it")
    stamp = path.stat()
    written(path, "2")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert files.current() == "2"


def test_a_change_within_the_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    """Of the same size, in place, with the very same times as far as the file system can tell."""
    path = tmp_path / "a"
    for turn in range(200):
        path.write_text(str(turn % 10))
        files = WatchedFiles([path], texts, what="it")
        path.write_text(str((turn + 1) % 10))
        assert files.current() == str((turn + 1) % 10)


def test_a_slip_that_is_mended_within_the_tick_of_the_clock_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    files = WatchedFiles([path], texts, what="it")
    for _ in range(50):
        path.write_text("bad")
        files.current()
        path.write_text("two")
        assert files.current() == "two"


def test_a_file_that_is_only_touched_is_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = written(tmp_path / "a", "1")
    files = WatchedFiles([path], list, what="it")
    before = files.current()
    os.utime(path, ns=(1, 1))
    assert files.current() is before
    assert caplog.records == []


def test_a_link_that_is_moved_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes does: `tls.crt -> ..data/tls.crt`, and `..data` is swapped."""
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        written(tmp_path / version / "a", version)
        written(tmp_path / version / "b", version)
    data = tmp_path / "..data"
    data.symlink_to("1")
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = WatchedFiles([tmp_path / "a", tmp_path / "b"], texts, what="both")
    assert files.current() == "1+1"
    (tmp_path / "..new").symlink_to("2")
    (tmp_path / "..new").replace(data)
    assert files.current() == "2+2"


def test_a_bad_change_leaves_what_was_there_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = written(tmp_path / "a", "1")
    files = WatchedFiles([path], texts, what="the thing")
    for breakage in (lambda: written(path, "bad"), path.unlink):
        breakage()
        caplog.clear()
        assert [files.current() for _ in range(3)] == ["1"] * 3
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert "the thing stays as it was" in record.getMessage()
        assert str(path) in record.getMessage()
    written(path, "2")
    assert files.current() == "2"
    assert "was read again" in caplog.records[-1].getMessage()


def test_what_changes_while_it_is_read_is_read_by_the_next_caller(tmp_path: Path) -> None:
    path = written(tmp_path / "a", "1")
    half_way = ["2", "3"]

    def parse(contents: Sequence[bytes]) -> bytes:
        if contents[0] != b"1" and half_way:
            written(path, half_way.pop())
        return contents[0]

    files = WatchedFiles([path], parse, what="it")
    written(path, "0")
    assert [files.current(), files.current(), files.current()] == [b"1", b"1", b"2"]


@pytest.mark.parametrize("text", ["bad", "x" * (MAX_BYTES + 1), None])
def test_files_that_cannot_be_used_at_the_start_are_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "a"
    if text is not None:
        written(path, text)
    with pytest.raises(ServiceError, match="the thing") as caught:
        WatchedFiles([path], texts, what="the thing")
    assert caught.value.reason == "ARGUMENT_INVALID"
    assert str(path) in caught.value.message

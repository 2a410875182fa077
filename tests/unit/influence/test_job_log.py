from __future__ import annotations

import json
from pathlib import Path

from services.influence.job_log import JobLog


def test_the_log_is_kept_in_two_files_of_bounded_size(tmp_path: Path) -> None:
    log = JobLog(tmp_path, max_bytes=1000)
    for number in range(100):
        log.write(f"line {number:04d} {'x' * 88}\n".encode())
    assert (tmp_path / "log.txt").stat().st_size <= 1000
    assert (tmp_path / "log.old.txt").stat().st_size <= 1000
    kept = (tmp_path / "log.old.txt").read_text() + (tmp_path / "log.txt").read_text()
    assert [line[:9] for line in kept.splitlines()] == [f"line {number:04d}" for number in range(80, 100)]


def test_another_run_appends(tmp_path: Path) -> None:
    JobLog(tmp_path).write(b"one\n")
    JobLog(tmp_path).write(b"two\n")
    assert (tmp_path / "log.txt").read_bytes() == b"one\ntwo\n"


def test_what_the_server_says_is_a_line_like_those_of_the_process(tmp_path: Path) -> None:
    folder = tmp_path / "the-uid"
    folder.mkdir()
    log = JobLog(folder)
    log.write(b'{"message": "one"}\n')
    log.note("it ended\nat s3cr3t")
    first, second = [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]
    assert first == {"message": "one"}
    assert (second["message"], second["job_uid"], second["level"]) == ("it ended\nat s3cr3t", "the-uid", "INFO")
    assert second["time"].endswith("+00:00")
    assert log.last_lines(2, secrets=["s3cr3t"]) == "it ended\nat ***"


def test_the_last_lines_hold_no_secret(tmp_path: Path) -> None:
    log = JobLog(tmp_path)
    log.write(b"one\n\ntwo s3cr3t-and-more s3cr3t\n")
    log.write(b"three http://user:pass@host/x \xff\n")
    tail = log.last_lines(2, secrets=("s3cr3t", "s3cr3t-and-more"))
    assert tail == "two *** ***\nthree http://***@host/x \N{REPLACEMENT CHARACTER}"


def test_a_secret_that_is_cut_by_the_end_of_the_tail_is_not_told(tmp_path: Path) -> None:
    log = JobLog(tmp_path)
    log.write(b"the-secret-value" + b"x" * 4090 + b"\nlast\n")
    assert "value" not in log.last_lines(9, secrets=("the-secret-value",))


def test_a_disk_that_is_gone_does_not_stop_the_job(tmp_path: Path) -> None:
    log = JobLog(tmp_path / "missing")
    log.write(b"still here\n")
    assert log.last_lines(1, secrets=()) == "still here"

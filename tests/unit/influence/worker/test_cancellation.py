from __future__ import annotations

import threading

import pytest

from services.influence.worker import cancellation as module
from services.influence.worker.cancellation import Cancellation, Cancelled


def test_nothing_happens_until_it_is_requested() -> None:
    cancellation = Cancellation()
    cancellation.check()
    cancellation.request()
    with pytest.raises(Cancelled):
        cancellation.check()


def test_a_request_before_the_commit_stops_it() -> None:
    cancellation = Cancellation()
    cancellation.request()
    with pytest.raises(Cancelled):
        cancellation.commit()


def test_a_request_after_the_commit_comes_too_late() -> None:
    cancellation = Cancellation()
    cancellation.commit()
    cancellation.request()
    cancellation.check()


def test_only_one_thread_may_send_the_last_message() -> None:
    cancellation = Cancellation()
    assert cancellation.end()
    assert not cancellation.end()


def test_work_that_ends_in_time_is_left_alone() -> None:
    cancellation = Cancellation()
    threading.Timer(0.05, cancellation.end).start()
    assert cancellation.wait_for_end()


def test_work_that_does_not_notice_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.02)
    assert not Cancellation().wait_for_end()


def test_a_commit_under_way_gets_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.02)
    cancellation = Cancellation()
    cancellation.commit()
    threading.Timer(0.2, cancellation.end).start()
    assert cancellation.wait_for_end()


def test_a_commit_that_hangs_is_given_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 0.02)
    monkeypatch.setattr(module, "COMMIT_GRACE_S", 0.02)
    cancellation = Cancellation()
    cancellation.commit()
    assert not cancellation.wait_for_end()

from __future__ import annotations

import pytest

from services.influence.messages import Message, ProgressMessage
from services.influence.worker.cancellation import Cancellation, Cancelled
from services.influence.worker.progress import JobProgress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Recorder:
    """A JobProgress of two stages and what it sent."""

    def __init__(self) -> None:
        self.sent: list[ProgressMessage] = []
        self.clock = Clock()
        self.cancellation = Cancellation()
        self.progress = JobProgress(
            ("inputs", "features"), send=self._take, check=self.cancellation.check, clock=self.clock
        )

    def _take(self, message: Message) -> None:
        assert isinstance(message, ProgressMessage)
        self.sent.append(message)


def test_the_start_and_the_end_of_a_stage_are_always_told() -> None:
    recorder = Recorder()
    with recorder.progress.stage("features", unit="samples", total=10) as report:
        report(10, 10)
    assert [(message.done, message.total) for message in recorder.sent] == [(0, 10), (10, 10)]
    assert {(message.stage, message.unit) for message in recorder.sent} == {("features", "samples")}
    assert {(message.stages_done, message.stages_total) for message in recorder.sent} == {(1, 2)}


def test_reports_in_between_are_a_few_a_second() -> None:
    recorder = Recorder()
    with recorder.progress.stage("inputs", unit="files", total=1000) as report:
        for done in range(1000):
            recorder.clock.now += 0.01
            report(done, 1000)
    told = len(recorder.sent) - 2
    assert 45 <= told <= 52  # ten seconds, five a second


def test_every_report_looks_for_a_cancel_also_those_that_are_not_sent() -> None:
    recorder = Recorder()

    def work() -> None:
        with recorder.progress.stage("inputs", unit="files", total=3) as report:
            recorder.cancellation.request()
            report(1, 3)

    with pytest.raises(Cancelled):
        work()
    assert len(recorder.sent) == 1


def test_seconds_of_stages_are_kept() -> None:
    recorder = Recorder()
    with recorder.progress.stage("inputs", unit="files"):
        recorder.clock.now += 2.5
    assert recorder.progress.seconds == {"inputs": 2.5}

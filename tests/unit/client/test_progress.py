from __future__ import annotations

from services.client.cli.following import job_step
from services.client.cli.progress import Step, lines
from services.client.jobs import Job, JobState, Progress


def job(state: JobState, **progress: object) -> Job:
    stage = {"stage": "features", "done": 5, "total": 10, "unit": "samples", "stages_done": 1, "stages_total": 5}
    return Job(
        name="projects/p/influenceJobs/j1",
        uid="u",
        kind="rank",
        state=state,
        progress=Progress(**(stage | progress)),  # type: ignore[arg-type]  # by field name
    )


def test_a_line_at_each_tenth_and_at_each_stage() -> None:
    steps = [Step(title="features", done=done, total=1000, unit="samples") for done in range(0, 1001, 10)]
    steps += [Step(title="results"), Step(title="results")]
    assert list(lines(steps)) == [
        "features: 0/1000 samples",
        *(f"features: {done}/1000 samples" for done in range(100, 1001, 100)),
        "results",
    ]


def test_a_total_that_is_not_known() -> None:
    assert list(lines([Step(title="features", done=7, unit="samples")])) == ["features: 7 samples"]


def test_the_time_left_is_in_words() -> None:
    said = [next(lines([Step(title="x", done=1, total=2, eta_seconds=eta)])) for eta in (4.6, 65, 3725)]
    assert said == ["x: 1/2, about 5 s left", "x: 1/2, about 1 min 05 s left", "x: 1/2, about 1 h 02 min left"]


def test_titles_cannot_steer_the_terminal() -> None:
    assert list(lines([Step(title="\x1b[2J")])) == ["\\x1b[2J"]


def test_what_is_shown_of_a_job() -> None:
    assert job_step(job(JobState.RUNNING, eta_seconds=3.0)) == Step(
        title="j1 features (2 of 5)", done=5, total=10, unit="samples", eta_seconds=3.0
    )
    assert job_step(job(JobState.PENDING)) == Step(title="j1 pending")
    assert job_step(job(JobState.SUCCEEDED)) == Step(title="j1 succeeded")
    assert job_step(job(JobState.RUNNING, stage="")) == Step(title="j1 running")

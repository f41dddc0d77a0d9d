"""What observers of the server are told of a job's end."""

from __future__ import annotations

import pytest

from guidegraph_serve.jobs import Job, JobEnd
from guidegraph_serve.observers import ServeObserver, end_job
from plugins.serve.tests.fakes import make_job
from tests.fake_clock import replace_clock


class Durations(ServeObserver):
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_end(self, job: Job, seconds: float) -> None:
        self.seconds.append(seconds)


def test_the_duration_of_a_job_does_not_depend_on_the_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    job, durations = make_job(3), Durations()
    job.created -= 3600  # the machine's clock was set
    job.began = 5.0
    replace_clock(monkeypatch, lambda: 7.5, "guidegraph_serve.jobs")
    assert end_job(job, JobEnd("done"), [durations])
    assert not end_job(job, JobEnd("failed"), [durations])
    assert durations.seconds == [2.5]

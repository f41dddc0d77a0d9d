"""The thread of one bundle: who steps with whom, and how jobs end."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import Any

import pytest

from guidegraph_runtime.bundle.manifest_types import Cost
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.limits import Limits, enforce_limits
from guidegraph_runtime.open_runs.open_run import OpenRun
from guidegraph_runtime.running.bundle import Prepared
from guidegraph_serve.jobs import (
    LATE,
    DrawRequest,
    Failure,
    Job,
    JobEnd,
    JobStore,
    RequestRefused,
    ServeOptions,
)
from guidegraph_serve.lane import CallBudget
from guidegraph_serve.request_checks import RequestChecks, collect_warnings, show_collected
from guidegraph_serve.worker import Worker
from plugins.serve.tests.conftest import MakeService
from plugins.serve.tests.fakes import FakeBundle, FakeShelf, make_job, make_worker

TIMEOUT = 30.0


@contextmanager
def run(worker: Worker) -> Iterator[None]:
    worker.start()
    try:
        yield
    finally:
        worker.stop()


def wait(*jobs: Job) -> None:
    for job in jobs:
        assert job.ended.wait(TIMEOUT), f"the job of {job.steps} steps has not ended"


def test_a_request_of_five_steps_behind_one_of_two_hundred() -> None:
    steps_at_end: list[int] = []
    long, short = make_job(200), make_job(5)

    def add_short(count: int) -> None:
        if count == 3:
            worker.add(short)

    def note_end() -> None:
        if short.step == 5 or short.ended.is_set():
            steps_at_end.append(bundle.steps)

    short.listen(note_end)
    bundle = FakeBundle(add_short)
    worker = make_worker(bundle, batch=1)
    worker.add(long)
    with run(worker):
        wait(short, long)
    in_order = 200 - 3 + 5
    assert bundle.steps == 205
    assert steps_at_end[0] - 3 <= 0.10 * in_order
    assert (short.outputs, long.outputs) == ({"steps": 5}, {"steps": 200})


def test_jobs_share_steps_and_leave_when_they_are_done() -> None:
    bundle = FakeBundle()
    worker = make_worker(bundle, batch=4)
    jobs = [make_job(2), make_job(5), make_job(3, samples=2)]
    for job in jobs:
        worker.add(job)
    with run(worker):
        wait(*jobs)
    assert bundle.batches == [3, 3, 2, 1, 1]
    assert [job.status for job in jobs] == ["done"] * 3
    assert [job.step for job in jobs] == [2, 5, 3]


def test_a_job_whose_run_fails_ends_alone() -> None:
    bundle = FakeBundle()
    worker = make_worker(bundle, batch=4)
    failing, broken, other = make_job(4, fails_at=2), make_job(4, broken=True), make_job(4)
    for job in (failing, broken, other):
        worker.add(job)
    with run(worker):
        wait(failing, broken, other)
    assert [job.status for job in (failing, broken, other)] == ["failed", "failed", "done"]
    assert failing.failure is not None
    assert failing.failure.message == "the run has failed"
    assert broken.failure is not None
    assert broken.failure.status == 500


def test_a_defect_ends_the_jobs_of_its_round_and_the_worker_goes_on() -> None:
    def fail_once(count: int) -> None:
        if not bundle.steps:
            bundle.steps = 1
            raise RuntimeError("a defect")

    bundle = FakeBundle(fail_once)
    worker = make_worker(bundle)
    first, second = make_job(3), make_job(4)
    worker.add(first)
    with run(worker):
        wait(first)
        worker.add(second)
        wait(second)
    assert first.failure is not None
    assert first.failure.code == "internal-error"
    assert second.status == "done"


def test_a_bundle_that_cannot_be_opened_for_any_reason_ends_its_jobs_and_the_worker_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = FakeBundle()
    attempts = []

    def acquire(shelf: FakeShelf, name: str, timeout: float) -> FakeBundle:
        attempts.append(name)
        if len(attempts) == 1:
            raise MemoryError
        return bundle

    monkeypatch.setattr(FakeShelf, "acquire", acquire)
    worker = make_worker(bundle)
    first, second = make_job(3), make_job(4)
    worker.add(first)
    with run(worker):
        wait(first)
        worker.add(second)
        wait(second)
    assert first.failure is not None
    assert (first.failure.code, second.status) == ("internal-error", "done")


def test_a_job_that_has_ended_keeps_its_outputs_and_neither_its_run_nor_its_tables() -> None:
    job = make_job(3)
    worker = make_worker(FakeBundle())
    worker.add(job)
    with run(worker):
        wait(job)
    assert (job.outputs, job.run, job.prepared) == ({"steps": 3}, None, None)


def test_a_job_is_done_only_when_its_outputs_are_there() -> None:
    states: list[tuple[str, bool, bool]] = []

    class WatchedJob(Job):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if "ended" in vars(self):  # its last field
                states.append((self.status, bool(self.outputs), self.failure is not None))

    done, failed = (WatchedJob("fake", {}, make_job(3).prepared) for _ in range(2))
    done.end(JobEnd("done", None, {"steps": 3}))
    failed.end(JobEnd("failed", Failure("it failed")))
    assert {state for state in states if state[0] == "done"} == {("done", True, False)}
    assert {state for state in states if state[0] == "failed"} == {("failed", False, True)}


def test_news_from_another_process_does_not_change_a_job_that_has_ended() -> None:
    job = make_job(3)
    job.follow("running", 1, 3, (1, b"png"))
    assert (job.status, job.step, job.preview) == ("running", 1, (1, b"png"))
    job.end(JobEnd("cancelled"))
    job.follow("running", 2, 3, (2, b"png"))
    assert (job.status, job.step) == ("cancelled", 1)


def test_a_job_that_is_cancelled_leaves_between_two_steps() -> None:
    job, other = make_job(100), make_job(100)

    def cancel(count: int) -> None:
        if count == 7:
            job.end(JobEnd("cancelled"))

    bundle = FakeBundle(cancel)
    worker = make_worker(bundle, batch=2)
    worker.add(job)
    worker.add(other)
    with run(worker):
        wait(job, other)
    assert (job.status, other.status) == ("cancelled", "done")
    assert bundle.batches == [2] * 8 + [1] * 92
    assert job.run is None


def test_a_deadline_ends_a_job_also_while_it_waits() -> None:
    bundle = FakeBundle()
    worker = make_worker(bundle, clock=lambda: float(bundle.steps))
    late, waiting, early = make_job(50, deadline=10.0), make_job(60, deadline=20.0), make_job(4, deadline=100.0)
    for job in (late, waiting, early):
        worker.add(job)
    with run(worker):
        wait(late, waiting, early)
    assert early.status == "done"
    for job in (late, waiting):
        assert job.failure is not None
        assert (job.failure.code, job.failure.status) == ("deadline", 504)
    assert late.step == 10 - 4
    assert bundle.steps == 20


def test_a_deadline_ends_a_job_whose_step_waits_for_the_memory_of_other_bundles() -> None:
    now = [0.0]
    late, other = make_job(1, deadline=1.0), make_job(1)
    late.call_bytes = other.call_bytes = 50
    worker = make_worker(FakeBundle(), batch=2, clock=lambda: now[0])
    budget = worker._settings.calls = CallBudget(120)
    worker.add(late)
    worker.add(other)
    with budget.reserve(80), run(worker):
        now[0] = 2.0
        wait(late)
        assert late.failure == LATE
        assert not other.ended.is_set()
        other.end(JobEnd("cancelled"))


def test_the_steps_of_two_loops_are_counted_as_foreseen_or_as_they_are_entered() -> None:
    seen: dict[str, list[tuple[int, int]]] = {"foreseen": [], "entered": []}
    jobs = {"foreseen": make_job(5, loops=[2, 3]), "entered": make_job(2, loops=[2, 3])}
    worker = make_worker(FakeBundle(), batch=2)
    for name, job in jobs.items():
        job.listen(lambda job=job, steps=seen[name]: steps.append((job.step, job.steps)))
        worker.add(job)
    with run(worker):
        wait(*jobs.values())
    assert list(dict.fromkeys(seen["foreseen"])) == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert list(dict.fromkeys(seen["entered"])) == [(0, 2), (1, 2), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_a_second_loop_with_more_steps_than_allowed_ends_the_job() -> None:
    job = make_job(2, loops=[2, 1000])
    worker = make_worker(FakeBundle())
    worker.add(job)
    with run(worker):
        wait(job)
    assert job.failure is not None
    assert (job.failure.code, job.step) == ("over-limit", 2)


def test_more_steps_than_allowed_are_refused_also_if_only_the_run_tells() -> None:
    job = make_job(1001)
    worker = make_worker(FakeBundle())
    worker.add(job)
    with run(worker):
        wait(job)
    assert job.failure is not None
    assert (job.failure.code, job.failure.status) == ("over-limit", 400)


def test_stopping_ends_all_jobs() -> None:
    begun = Event()
    worker = make_worker(FakeBundle(lambda count: begun.set()))
    jobs = [make_job(1_000_000_000 if i else 900) for i in range(3)]
    for job in jobs:
        worker.add(job)
    worker.start()
    assert begun.wait(TIMEOUT)
    worker.stop()
    assert all(job.ended.is_set() for job in jobs)


def test_the_bundle_is_released_when_open_runs_have_ended_and_another_waits() -> None:
    bundle = FakeBundle()
    shelf = FakeShelf(bundle)
    released: list[int] = []

    def want(count: int) -> None:
        if count == 2:
            worker.add(second)
            shelf.is_wanted = True

    def release(name: str) -> None:
        released.append(bundle.steps)
        shelf.is_wanted = False

    first, second = make_job(6), make_job(3)
    bundle.on_step = want
    worker = make_worker(bundle, batch=4)
    worker._shelf = shelf
    shelf.release = release  # type: ignore[method-assign]
    worker.add(first)
    with run(worker):
        wait(first, second)
    assert released[0] == 6
    assert bundle.batches == [1] * 9


def test_listeners_hear_of_each_step_and_of_the_end() -> None:
    heard: list[tuple[int, str]] = []
    job = make_job(3)
    stop = job.listen(lambda: heard.append((job.step, job.status)), previews=True)
    assert job.needs_previews
    worker = make_worker(FakeBundle())
    worker.add(job)
    with run(worker):
        wait(job)
    assert heard == [(0, "running"), (1, "running"), (2, "running"), (3, "done")]
    stop()
    assert not job.needs_previews


def test_warnings_go_to_the_request_they_are_about() -> None:
    others: list[str] = []
    with warnings.catch_warnings():  # restores the filters, and how warnings are shown
        show_collected(others.append)
        with collect_warnings() as texts:
            for _ in range(2):
                warnings.warn("unknown word", stacklevel=1)
        warnings.warn("an old file", stacklevel=1)
    assert (texts, others) == (["unknown word"], ["an old file"])


@pytest.mark.parametrize(("max_kept", "max_bytes", "kept"), [(3, 1000, 3), (100, 25, 2), (0, 0, 1)])
def test_the_oldest_ended_jobs_are_forgotten(max_kept: int, max_bytes: int, kept: int) -> None:
    store = JobStore(max_kept, max_bytes)
    jobs = [make_job(1) for _ in range(6)]
    for job in jobs:
        assert store.add(job, 10)
    for job in jobs[:5]:
        job.end(JobEnd("done", output_bytes=10))
    store.forget()
    remembered = [job for job in jobs if store.find(job.id) is job]
    assert remembered == [*jobs[5 - kept : 5], jobs[5]]
    assert store.list_open() == [jobs[5]]


def test_of_large_outputs_those_of_the_job_that_ended_last_stay() -> None:
    store = JobStore(max_bytes=25)
    first, second = make_job(1), make_job(1)
    assert store.add(first, 10)
    assert store.add(second, 10)
    second.end(JobEnd("done", output_bytes=20))
    first.end(JobEnd("done", output_bytes=20))
    store.forget()
    assert (store.find(first.id), store.find(second.id)) == (first, None)


def test_a_store_takes_no_more_open_jobs_than_its_limit() -> None:
    store = JobStore()
    first = make_job(1)
    assert store.add(first, 1)
    assert not store.add(make_job(1), 1)
    first.end(JobEnd("cancelled"))
    assert store.add(make_job(1), 1)


def test_a_late_job_ends_whatever_is_computed(make_service: MakeService) -> None:
    service = make_service(started=False)  # as if a long call went on in its worker
    late, early = (service.submit(DrawRequest("pictures", {}, deadline=deadline)) for deadline in (1e-3, 100.0))
    time.sleep(0.01)
    service.end_late()
    assert (late.failure, early.ended.is_set()) == (LATE, False)


def test_limits_of_all_runs_hold_beside_those_of_the_server() -> None:
    with enforce_limits(Limits(seconds=0.2, call_seconds=0.1)):
        limits = RequestChecks({}, ServeOptions(steps=20_000, seconds=10.0)).limits
    assert (limits.seconds, limits.call_seconds, limits.steps) == (0.2, 0.1, 20_000)
    limits = RequestChecks({}, ServeOptions(seconds=10.0)).limits
    assert (limits.seconds, limits.call_seconds, limits.steps) == (10.0, 10.0, 10_000)


def test_a_run_that_needs_more_memory_than_there_is_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = FakeBundle()

    def start(params: Any, *, prepared: Prepared) -> OpenRun:
        raise BundleError("fake", "needs-memory", "it needs 9 GB. If this machine has it, raise the limit: --limit x=1")

    monkeypatch.setattr(bundle, "start_with", start)
    worker, job = make_worker(bundle), make_job(1)
    worker.add(job)
    with run(worker):
        wait(job)
    assert job.failure == Failure("it needs 9 GB", "needs-memory", 413)


def test_a_request_whose_calls_take_too_much_memory_is_too_large(make_service: MakeService) -> None:
    service = make_service(started=False)
    entry = service.entries["pictures"]
    small, large = (
        Cost({"batch": 1, "height": side, "width": side}, side**2 * 1000, side**2 / 1000) for side in (8, 16)
    )
    parts = {**entry.manifest.parts, "step": replace(entry.manifest.parts["step"], costs=(small, large))}
    entry.checks._verified = replace(entry.checks._verified, manifest=replace(entry.manifest, parts=parts))
    service.checks.call_memory = 10**9
    job = service.submit(DrawRequest("pictures", {"batch": 1, "steps": 10}, {"noise.shape": [2, 900, 900]}))
    assert (job.call_bytes, job.step_seconds) == (810_000_000, pytest.approx(810.0))
    with pytest.raises(RequestRefused, match=r"call takes about 1.62 GB, and this server allows 1 GB") as refused:
        service.submit(DrawRequest("pictures", {"batch": 2}, {"noise.shape": [2, 900, 900]}))
    assert (refused.value.status, refused.value.param) == (413, "noise.shape")

"""The thread of one bundle: between steps it lets jobs begin and ends those that are done, cancelled or late."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any, Protocol

from numpy.typing import NDArray

from guidegraph_runtime.error_text import describe_error, error_text
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.limits import Limits, enforce_limits
from guidegraph_runtime.open_runs.open_run import OpenRun
from guidegraph_runtime.running.bundle import Prepared
from guidegraph_runtime.sessions.call_limits import NEEDS_MEMORY, call_for, release_arena
from guidegraph_serve.jobs import LATE, STOPPED, Failure, Job, JobEnd, describe_steps, drop_remedy
from guidegraph_serve.lane import CallBudget, Lane
from guidegraph_serve.observers import ServeObserver, call_each, end_job

ROOM_SECONDS = 0.2
"""How long to wait for the memory of another bundle before the deadlines of the waiting jobs are looked at."""
SMOOTHING = 0.1
"""The weight of the newest step in the mean seconds of a step."""

EncodedOutputs = tuple[Mapping[str, Any], int]
"""Outputs by name as JSON, and their bytes."""


class SteppedBundle(Protocol):
    """The methods of a bundle that a worker calls."""

    def start_with(self, params: Mapping[str, Any], *, prepared: Prepared) -> OpenRun: ...
    def step(self, runs: Sequence[OpenRun]) -> None: ...


class Shelf(Protocol):
    """Where a worker gets its bundle. See ``BundleShelf``."""

    def acquire(self, name: str, timeout: float) -> SteppedBundle | None: ...
    def release(self, name: str) -> None: ...
    def leave_queue(self, name: str) -> None: ...
    def is_due(self, name: str) -> bool: ...


@dataclass
class WorkerSettings:
    """Settings of a worker.

    batch, memory: see ``Lane``. calls: the memory for the calls of all workers. limits: of each run. max_steps: the
    most iterations of a job. encode: the outputs of a job as JSON; raises ``ValueError`` for those that cannot be
    written. preview: a small picture of a run as a PNG, and draw_partial: the picture of its unfinished sample; empty
    without one.
    """

    batch: int
    memory: int
    limits: Limits
    max_steps: int
    encode: Callable[[Job, Mapping[str, NDArray[Any]]], EncodedOutputs]
    preview: Callable[[Job], bytes] = lambda job: b""
    draw_partial: Callable[[Job], bytes] = lambda job: b""
    calls: CallBudget | None = None


class Worker:
    """Runs the jobs of one bundle in a thread of its own."""

    def __init__(
        self,
        name: str,
        shelf: Shelf,
        settings: WorkerSettings,
        observers: Sequence[ServeObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name, self._shelf, self._settings = name, shelf, settings
        self._observers, self._clock = observers, clock
        self.lane: Lane[Job] = Lane(
            settings.batch, settings.memory, None if settings.calls is None else settings.calls.limit
        )
        self.step_seconds = 0.0
        self._changed = Condition()
        self._is_stopping = False
        self._thread = Thread(target=self._work, name=f"guidegraph-serve-{name}", daemon=True)
        self._encoder = ThreadPoolExecutor(1, f"guidegraph-encode-{name}")

    def start(self) -> None:
        self._thread.start()

    def add(self, job: Job) -> None:
        """Queue a job."""
        with self._changed:
            self.lane.jobs.append(job)
            self._changed.notify_all()

    def stop(self, seconds: float = 5.0) -> None:
        """End all jobs, and wait for the thread, which ends after the current step."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        self._thread.join(seconds)
        self._encoder.shutdown(wait=not self._thread.is_alive(), cancel_futures=True)

    def count_waiting_steps(self) -> int:
        """The iterations that are left of all jobs."""
        with self._changed:
            return sum(job.remaining * job.samples for job in self.lane.jobs if not job.ended.is_set())

    def _work(self) -> None:
        with enforce_limits(self._settings.limits):
            while self._wait_for_jobs():
                self._run_rounds()
        for job in self._list_jobs():
            self._end(job, JobEnd("cancelled", STOPPED))

    def _run_rounds(self) -> None:
        """Take the bundle, and run jobs until they have ended or others need its memory.

        No reference to the bundle is left afterwards, so that its memory is free when the shelf drops it.
        """
        with self._acquire() as bundle:
            while bundle is not None and self._has_work():
                self._run_round(bundle)
        release_arena()

    def _wait_for_jobs(self) -> bool:
        """Wait for a job; False when the worker is stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping or self.lane.jobs)
            return not self._is_stopping

    @contextmanager
    def _acquire(self) -> Iterator[SteppedBundle | None]:
        """The bundle, for the block; None if it has to wait for memory, or cannot be opened."""
        bundle: SteppedBundle | None = None
        try:
            bundle = self._shelf.acquire(self._name, ROOM_SECONDS)
        except BundleError as error:
            self._fail_all(error.message, error.code)
        except OSError as error:
            self._fail_all(f"the bundle cannot be opened: {error.strerror}", "os-error")
        except Exception as error:  # a defect, or no memory: later requests may fare better
            self._fail_all(f"the bundle cannot be opened: {describe_error(error)}", "internal-error")
        self._remove_ended()
        if not self._list_jobs():
            self._shelf.leave_queue(self._name)
        try:
            yield bundle
        finally:
            if bundle is not None:
                self._shelf.release(self._name)

    def _has_work(self) -> bool:
        """Whether to keep the bundle: there are jobs, and others do not need its memory."""
        self._remove_ended()
        with self._changed:
            if self._is_stopping or not self.lane.jobs:
                return False
            return self.lane.has_open or not self._shelf.is_due(self._name)

    def _run_round(self, bundle: SteppedBundle) -> None:
        """Step the jobs whose turn it is, after starting those that are new."""
        with self._changed:
            chosen = self.lane.choose(admit=not self._shelf.is_due(self._name))
        if self._settings.calls is None:
            self._run_chosen(bundle, chosen)
            return

        def is_wanted() -> bool:
            self._remove_ended()
            return not self._is_stopping and not all(job.ended.is_set() for job in chosen)

        with self._settings.calls.reserve(sum(job.call_bytes for job in chosen), is_wanted) as is_held:
            if is_held:
                self._run_chosen(bundle, [job for job in chosen if not job.ended.is_set()])

    def _run_chosen(self, bundle: SteppedBundle, chosen: Sequence[Job]) -> None:
        runs: list[tuple[Job, OpenRun]] = []
        with self._contain(chosen):
            opened = [job for job in chosen if job.is_open or self._open(bundle, job)]
            runs = [(job, run) for job in opened if (run := job.run) is not None]
            self._step(bundle, runs)
        for job, run in runs:
            with self._contain([job]):
                self._advance(job, run)

    @contextmanager
    def _contain(self, jobs: Sequence[Job]) -> Iterator[None]:
        """End jobs whose block fails by a defect of the runtime, so that the server survives it."""
        try:
            yield
        except Exception as error:
            message = describe_error(error)
            call_each(self._observers, lambda observer: observer.on_error(self._name, message))
            for job in jobs:
                self._fail(job, f"internal error: {type(error).__name__}", "internal-error")

    def _open(self, bundle: SteppedBundle, job: Job) -> bool:
        prepared = job.prepared
        if prepared is None:
            return False
        try:
            with call_for(job.still_waits):
                run = bundle.start_with({}, prepared=prepared)
                run.still_waits = job.still_waits
        except BundleError as error:
            self._fail_run(job, error)
            return False
        if self._end_if_too_long(job, run):
            return False
        job.begin(run)
        return True

    def _end_if_too_long(self, job: Job, run: OpenRun) -> bool:
        """End a job whose loops, as far as they were entered, take more steps than the server allows."""
        if run.total <= self._settings.max_steps:
            return False
        self._fail(job, describe_steps(run.total, self._settings.max_steps), "over-limit", 400)
        return True

    def _step(self, bundle: SteppedBundle, runs: Sequence[tuple[Job, OpenRun]]) -> None:
        active = [run for _, run in runs if not run.done]
        if not active:
            return
        started = self._clock()
        try:
            bundle.step(active)
        except BundleError as error:
            if not any(run.failed for run in active):
                raise RuntimeError(error.message) from error
        seconds = self._clock() - started
        self.step_seconds += (seconds - self.step_seconds) * (SMOOTHING if self.step_seconds else 1.0)
        samples = sum(job.samples for job, run in runs if run in active)
        call_each(self._observers, lambda observer: observer.on_step(self._name, len(active), samples, seconds))

    def _advance(self, job: Job, run: OpenRun) -> None:
        """Report the progress of a job, and end it if its run has failed or is done."""
        if job.ended.is_set():
            return
        try:
            run.check_open()
            job.count_steps(run)
            if self._end_if_too_long(job, run):
                return
            if not run.done:
                if job.needs_previews and (preview := self._settings.preview(job)):
                    job.preview = job.step, preview
                if job.is_partial_due and (picture := self._settings.draw_partial(job)):
                    job.partial_pictures.append(picture)
                job.report()
                return
            outputs = run.finish()
        except BundleError as error:
            self._fail_run(job, error)
            return
        self._remove(job)
        self._encoder.submit(self._finish, job, outputs)

    def _finish(self, job: Job, outputs: Mapping[str, NDArray[Any]]) -> None:
        """End a job with its outputs. Runs in the thread of the encoder, so that others need not wait for it."""
        with self._contain([job]):
            try:
                encoded, size = self._settings.encode(job, outputs)
            except ValueError as error:
                self._fail(job, error_text(error), "output-failed", 422)
            else:
                self._end(job, JobEnd("done", None, encoded, size))

    def _list_jobs(self) -> list[Job]:
        with self._changed:
            return [*self.lane.jobs]

    def _remove(self, job: Job) -> None:
        with self._changed:
            if job in self.lane.jobs:
                self.lane.jobs.remove(job)

    def _remove_ended(self) -> None:
        """Remove jobs that were cancelled, and end those that are late."""
        now = self._clock()
        for job in self._list_jobs():
            if now >= job.deadline:
                self._end(job, JobEnd("failed", LATE))
            if job.ended.is_set():
                self._remove(job)

    def _fail_all(self, message: str, code: str) -> None:
        for job in self._list_jobs():
            self._fail(job, message, code)
        call_each(self._observers, lambda observer: observer.on_error(self._name, message))

    def _end(self, job: Job, end: JobEnd) -> None:
        end_job(job, end, self._observers)

    def _fail_run(self, job: Job, error: BundleError) -> None:
        """End a job whose run has failed: 413 if it needs more memory than there is."""
        self._fail(job, drop_remedy(error.message), error.code, 413 if error.code == NEEDS_MEMORY else 500)

    def _fail(self, job: Job, message: str, code: str, status: int = 500) -> None:
        self._end(job, JobEnd("failed", Failure(message, code, status)))

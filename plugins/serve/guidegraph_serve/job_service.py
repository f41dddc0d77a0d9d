"""The jobs behind the server's routes: they are checked, queued and ended here. It knows nothing of HTTP."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from guidegraph_serve.jobs import (
    LATE,
    STOPPED,
    DrawRequest,
    Failure,
    Job,
    JobEnd,
    JobStore,
    RequestRefused,
    ServeOptions,
)
from guidegraph_serve.observers import RequestTrace, ServeObserver, call_each, end_job
from guidegraph_serve.request_checks import RequestChecks
from guidegraph_serve.shelf import ShelfEntry


@dataclass(frozen=True)
class ForgetEnded(ServeObserver):
    """Forgets old jobs when one ends, so that their outputs take no more memory than allowed while nothing is sent."""

    jobs: JobStore

    def on_end(self, job: Job, seconds: float) -> None:
        self.jobs.forget()


class JobService(ABC):
    """The jobs of some bundles. Its methods may be called in any thread."""

    def __init__(
        self,
        entries: Mapping[str, ShelfEntry],
        options: ServeOptions,
        observers: Sequence[ServeObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self.entries, self.options, self.clock = entries, options, clock
        self.checks = RequestChecks(entries, options)
        self.jobs = JobStore()
        self.observers = (*observers, ForgetEnded(self.jobs))
        self.is_draining = False
        self._lock = Lock()

    @abstractmethod
    def begin(self, job: Job, request: DrawRequest) -> None:
        """Begin a job that was accepted; it is ended later, on another thread."""

    @abstractmethod
    def estimate_wait(self) -> int:
        """Seconds after which a request that is refused now may be sent again."""

    def drain(self) -> None:
        """Refuse new requests from now on; accepted ones are still drawn."""
        self.is_draining = True

    @property
    def is_idle(self) -> bool:
        """Whether all jobs have ended."""
        with self._lock:
            return not self.jobs.list_open()

    def submit(self, request: DrawRequest) -> Job:
        """Check a request, and queue it. Raises ``RequestRefused``."""
        self._check_admission()
        arrival = self.clock()
        checked = self.checks.check(request)
        job = Job(
            request.bundle,
            request.params,
            checked.prepared,
            request.priority,
            arrival + checked.seconds,
            request.nodes or {},
            checked.warnings,
            partials=request.partials,
        )
        with self._lock:  # so that `is_idle` sees each job that is accepted
            self._check_admission()
            held = sum(other.held for other in self.jobs.list_open())
            if held and held + job.held > self.options.run_memory:
                raise self._refuse("the files of the requests in the queue take all of their memory")
            if not self.jobs.add(job, self.options.queue):
                raise self._refuse_full()
            call_each(self.observers, lambda observer: observer.on_accept(job))
            self.begin(job, request)
        return job

    def cancel(self, job: Job) -> bool:
        """End a job; its run is dropped between two steps. Returns whether it had not ended yet."""
        return self.end(job, JobEnd("cancelled", Failure("the request was cancelled", "cancelled", 409)))

    def end_jobs(self) -> None:
        """End all jobs now."""
        for job in self.jobs.list_open():
            self.end(job, JobEnd("cancelled", STOPPED))

    def end_late(self) -> None:
        """End the jobs whose deadline has passed, even during a graph call."""
        now = self.clock()
        for job in self.jobs.list_open():
            if now >= job.deadline:
                self.end(job, JobEnd("failed", LATE))

    def end(self, job: Job, end: JobEnd) -> bool:
        """End a job. Returns whether it had not ended yet."""
        return end_job(job, end, self.observers)

    def report_answer(self, trace: RequestTrace) -> None:
        """Tell the observers of a request that was answered."""
        call_each(self.observers, lambda observer: observer.on_answer(trace))

    def report_error(self, message: str) -> None:
        """Tell the observers of an error of the server itself."""
        call_each(self.observers, lambda observer: observer.on_error("", message))

    def _check_admission(self) -> None:
        if self.is_draining:
            raise RequestRefused("the server is shutting down", code="draining", status=503, retry_after=1)
        if len(self.jobs.list_open()) >= self.options.queue:
            raise self._refuse_full()

    def _refuse_full(self) -> RequestRefused:
        return self._refuse(f"{self.options.queue} requests are in the queue")

    def _refuse(self, reason: str) -> RequestRefused:
        message = f"{reason}: try again later"
        return RequestRefused(message, code="queue-full", status=429, retry_after=self.estimate_wait())

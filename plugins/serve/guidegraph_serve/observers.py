"""Observers of the server: its metrics, and its log, a line of JSON for each event on stdout.

Prompts and other parameters are in neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from threading import Lock
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from guidegraph_runtime.printing import print_json
from guidegraph_serve.jobs import LEVELS, Job, JobEnd


@dataclass
class RequestTrace:
    """A request over HTTP. parent: its header ``traceparent``, or "". client: the address.

    status: of its answer, 0 if the client went away before. code: a word for the reason of a refusal. seconds: until
    the end of the answer. has_job: whether a job was made of it, which has lines of its own.
    """

    id: str
    parent: str
    client: str
    method: str
    path: str
    status: int = 0
    code: str = ""
    seconds: float = 0.0
    has_job: bool = False

    @property
    def is_refused(self) -> bool:
        """Whether the request was refused before a job was made of it."""
        return self.status >= HTTPStatus.BAD_REQUEST and not self.has_job


_current: ContextVar[RequestTrace | None] = ContextVar("guidegraph_serve_request", default=None)


@contextmanager
def trace_request(trace: RequestTrace) -> Iterator[None]:
    """Name a request in the lines that are logged within the block."""
    token = _current.set(trace)
    try:
        yield
    finally:
        _current.reset(token)


def current_trace() -> RequestTrace | None:
    """The request that is being answered here, if any."""
    return _current.get()


class ServeObserver:
    """Observes the server silently. Its methods are called on any thread."""

    def on_accept(self, job: Job) -> None:
        """A job was queued."""

    def on_answer(self, trace: RequestTrace) -> None:
        """A request was answered, or refused before a job was made of it."""

    def on_step(self, bundle: str, runs: int, samples: int, seconds: float) -> None:
        """Runs have shared a step."""

    def on_end(self, job: Job, seconds: float) -> None:
        """A job has ended, this many seconds after it was accepted."""

    def on_open(self, bundle: str, seconds: float) -> None:
        """A bundle was opened."""

    def on_drop(self, bundle: str) -> None:
        """A bundle was dropped from memory."""

    def on_error(self, bundle: str, message: str) -> None:
        """An error of the server itself, which ended some jobs."""


def call_each(observers: Sequence[ServeObserver], call: Callable[[ServeObserver], None]) -> None:
    """Tell each observer of an event."""
    for observer in observers:
        call(observer)


def end_job(job: Job, end: JobEnd, observers: Sequence[ServeObserver]) -> bool:
    """End a job, and report its end unless it had ended before. Returns whether it had not."""
    is_first = job.end(end)
    if is_first:
        call_each(observers, lambda observer: observer.on_end(job, job.ended_at - job.began))
    return is_first


class EventLog(ServeObserver):
    """Prints events from a level on. A line that cannot be written (on a full disk, for example) is lost."""

    def __init__(self, level: str = "info") -> None:
        self._lock, self._least = Lock(), LEVELS.index(level)

    def print(self, event: str, level: str = "info", **fields: Any) -> None:
        """Print an event with its level, the seconds since 1970, and the id of the request that it is about."""
        if LEVELS.index(level) < self._least:
            return
        if (trace := current_trace()) is not None:
            fields = {"request": trace.id, **({"traceparent": trace.parent} if trace.parent else {}), **fields}
        self.write({"time": round(time.time(), 3), "level": level, "event": event, **fields})

    def write(self, line: dict[str, Any]) -> None:
        """Write a line to stdout."""
        with self._lock, suppress(OSError, ValueError):
            print_json(line)

    def on_accept(self, job: Job) -> None:
        self.print("job_accepted", id=job.id, bundle=job.bundle, steps=job.steps, samples=job.samples)

    def on_answer(self, trace: RequestTrace) -> None:
        fields: dict[str, Any] = {"client": trace.client, "method": trace.method, "path": trace.path}
        fields |= {"status": trace.status, "seconds": round(trace.seconds, 3)}
        if trace.is_refused:
            self.print("request_refused", "warning", code=trace.code, **fields)
        else:
            self.print("request_answered", "debug", **fields)

    def on_end(self, job: Job, seconds: float) -> None:
        fields: dict[str, Any] = {"status": job.status, "step": job.step, "seconds": round(seconds, 3)}
        if job.failure is not None:
            fields |= {"code": job.failure.code, "message": job.failure.message}
        self.print("job_ended", "warning" if job.status == "failed" else "info", id=job.id, bundle=job.bundle, **fields)

    def on_open(self, bundle: str, seconds: float) -> None:
        self.print("bundle_opened", bundle=bundle, seconds=round(seconds, 3))

    def on_drop(self, bundle: str) -> None:
        self.print("bundle_dropped", bundle=bundle)

    def on_error(self, bundle: str, message: str) -> None:
        self.print("error", "error", bundle=bundle, message=message)


SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
STEP_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SAMPLES = (1, 2, 4, 8, 16, 32, 64)


class ServeMetrics(ServeObserver):
    """Counts what happens in the server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels, registry = ["bundle"], self._registry
        prefix = "guidegraph_"
        self._accepted = Counter(f"{prefix}jobs_accepted", "Jobs that were queued", labels, registry=registry)
        self._refused = Counter(f"{prefix}requests_refused", "Requests refused, by reason", ["code"], registry=registry)
        self._ended = Counter(
            f"{prefix}jobs_ended", "Jobs that ended, by how they did", [*labels, "status"], registry=registry
        )
        self._open = Gauge(f"{prefix}jobs_open", "Jobs that have not ended", labels, registry=registry)
        self._seconds = Histogram(
            f"{prefix}job_seconds", "From a job's arrival to its end", labels, buckets=SECONDS, registry=registry
        )
        self._step_seconds = Histogram(
            f"{prefix}step_seconds", "Time of a shared step", labels, buckets=STEP_SECONDS, registry=registry
        )
        self._samples = Histogram(
            f"{prefix}step_samples", "Samples in a shared step", labels, buckets=SAMPLES, registry=registry
        )
        self._loaded = Gauge(f"{prefix}bundle_open", "1 while a bundle is in memory", labels, registry=registry)
        self._errors = Counter(f"{prefix}errors", "Errors of the server itself", labels, registry=registry)

    def read(self) -> tuple[bytes, str]:
        """The metrics as text, and their media type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def on_accept(self, job: Job) -> None:
        self._accepted.labels(job.bundle).inc()
        self._open.labels(job.bundle).inc()

    def on_answer(self, trace: RequestTrace) -> None:
        if trace.is_refused:
            self._refused.labels(trace.code).inc()

    def on_step(self, bundle: str, runs: int, samples: int, seconds: float) -> None:
        self._step_seconds.labels(bundle).observe(seconds)
        self._samples.labels(bundle).observe(samples)

    def on_end(self, job: Job, seconds: float) -> None:
        self._ended.labels(job.bundle, job.status).inc()
        self._open.labels(job.bundle).dec()
        self._seconds.labels(job.bundle).observe(seconds)

    def on_open(self, bundle: str, seconds: float) -> None:
        self._loaded.labels(bundle).set(1)

    def on_drop(self, bundle: str) -> None:
        self._loaded.labels(bundle).set(0)

    def on_error(self, bundle: str, message: str) -> None:
        self._errors.labels(bundle).inc()

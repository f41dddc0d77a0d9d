"""Observers of the server: its metrics and its log."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus

from guidegraph_runtime.serve.jobs import Job, JobEnd


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
    """End a job, and tell the observers unless it had ended before. Returns whether it had not."""
    is_first = job.end(end)
    if is_first:
        call_each(observers, lambda observer: observer.on_end(job, job.ended_at - job.began))
    return is_first

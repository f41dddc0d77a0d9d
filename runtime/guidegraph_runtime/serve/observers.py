"""Observers of the server: its metrics and its log."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from guidegraph_runtime.serve.jobs import Job, JobEnd


class ServeObserver:
    """Observes the server silently. Its methods are called on any thread."""

    def on_accept(self, job: Job) -> None:
        """A job was queued."""

    def on_refuse(self, code: str) -> None:
        """A request was refused before it was queued."""

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

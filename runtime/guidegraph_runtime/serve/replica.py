"""A replica's side of a request that another process has accepted: its events as data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from guidegraph_runtime.serve.job_service import JobService
from guidegraph_runtime.serve.job_watch import HEARTBEAT, JobWatch
from guidegraph_runtime.serve.jobs import Failure, Job, JobEnd, Status
from guidegraph_runtime.serve.requests import DrawRequest, RequestRefused


@dataclass(frozen=True)
class ReplicaEvent:
    """The state of a job at a replica, with the fields of ``Job``. partials: those that no earlier event has.

    end: in the last event alone.
    """

    status: Status = "queued"
    step: int = 0
    steps: int = 0
    preview: tuple[int, bytes] = (0, b"")
    end: JobEnd | None = None
    partials: tuple[bytes, ...] = ()


async def iterate_replica_events(service: JobService, request: DrawRequest) -> AsyncIterator[ReplicaEvent]:
    """Draw a request, and yield its state, up to its end. Whoever ends the iteration cancels it.

    A request that is watched yields an event with a preview after each change; of another one nobody asks for the
    progress, so it yields its first and its last state.
    """
    try:
        job = await _submit(service, request)
    except RequestRefused as refusal:
        failure = Failure(refusal.message, refusal.code, refusal.status, refusal.retry_after)
        yield ReplicaEvent(end=JobEnd("failed", failure))
        return
    try:
        sent = 0
        follows = request.is_watched or request.partials
        with JobWatch(job, request.is_watched) as watch:
            while not job.ended.is_set():
                event = _make_event(job, sent)
                sent += len(event.partials)
                yield event
                await (watch.wait(HEARTBEAT) if follows else watch.wait_for_end())
        yield _make_event(job, sent, job.result)
    finally:
        service.cancel(job)  # does nothing to a job that has ended


async def _submit(service: JobService, request: DrawRequest) -> Job:
    """Queue a request, on a thread. If this is cancelled meanwhile, the job ends as soon as there is one."""
    submission = asyncio.ensure_future(asyncio.to_thread(service.submit, request))
    try:
        return await asyncio.shield(submission)
    except asyncio.CancelledError:
        submission.add_done_callback(lambda _: _cancel_submitted(service, submission))
        raise


def _cancel_submitted(service: JobService, submission: asyncio.Future[Job]) -> None:
    if not submission.cancelled() and submission.exception() is None:
        service.cancel(submission.result())


def _make_event(job: Job, sent: int, end: JobEnd | None = None) -> ReplicaEvent:
    """sent: how many pictures of the unfinished sample earlier events have."""
    return ReplicaEvent(job.status, job.step, job.steps, job.preview, end, (*job.partial_pictures[sent:],))

"""Jobs that other processes, the replicas, draw: the side of the front, and the side of a replica.

A job whose replica is lost begins again at another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from guidegraph_runtime.error_text import describe_error
from guidegraph_serve.job_service import JobService
from guidegraph_serve.jobs import (
    HEARTBEAT,
    LATE,
    DrawRequest,
    Failure,
    Job,
    JobEnd,
    JobWatch,
    RequestRefused,
    ServeOptions,
    Status,
)
from guidegraph_serve.observers import ServeObserver
from guidegraph_serve.shelf import ShelfEntry


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

        def cancel_job(_: object) -> None:
            if not submission.cancelled() and submission.exception() is None:
                service.cancel(submission.result())

        submission.add_done_callback(cancel_job)
        raise


def _make_event(job: Job, sent: int, end: JobEnd | None = None) -> ReplicaEvent:
    """sent: how many pictures of the unfinished sample earlier events have."""
    return ReplicaEvent(job.status, job.step, job.steps, job.preview, end, (*job.partial_pictures[sent:],))


ATTEMPTS = 4
"""How many replicas may be lost before a job fails with them."""
PAUSE = 0.5
"""Seconds between two attempts."""
RETRY_SECONDS = 5

Draw: TypeAlias = Callable[[DrawRequest], AsyncGenerator[ReplicaEvent, None]]
"""Draws a request at some replica. Closing the generator cancels it. Raises ``ReplicaLost``."""


class ReplicaLost(Exception):
    """The process that drew a request has ended, or cannot be reached."""


class RemoteService(JobService):
    """Jobs that ``draw`` hands to replicas. attach: to call in the event loop before the first request."""

    def __init__(
        self,
        entries: Mapping[str, ShelfEntry],
        options: ServeOptions,
        draw: Draw,
        observers: Sequence[ServeObserver] = (),
    ):
        super().__init__(entries, options, observers)
        self._draw = draw
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Future[None]] = set()

    def attach(self) -> None:
        """Follow jobs in the event loop that runs now."""
        self._loop = asyncio.get_running_loop()

    def begin(self, job: Job, request: DrawRequest) -> None:
        assert self._loop is not None, "attach was not called"

        def follow() -> None:
            task = asyncio.ensure_future(self._follow(job, request))
            self._tasks.add(task)  # the loop itself keeps no reference
            task.add_done_callback(self._tasks.discard)

        self._loop.call_soon_threadsafe(follow)

    def estimate_wait(self) -> int:
        return RETRY_SECONDS

    async def _follow(self, job: Job, request: DrawRequest) -> None:
        """Draw a job until it has ended, here or at its replica, or its deadline has passed."""
        with JobWatch(job, previews=False) as watch:
            drawing = asyncio.ensure_future(self._draw_somewhere(job, request))
            ended = asyncio.ensure_future(watch.wait_for_end())
            seconds = max(job.deadline - self.clock(), 0.0)
            await asyncio.wait([drawing, ended], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not drawing.done():
                self.end_late()
            for task in (drawing, ended):
                task.cancel()
            (failure, *_) = await asyncio.gather(drawing, ended, return_exceptions=True)
        if isinstance(failure, Exception):
            self.report_error(describe_error(failure))
            message = f"internal error: {type(failure).__name__}"
            self.end(job, JobEnd("failed", Failure(message, "internal-error")))

    async def _draw_somewhere(self, job: Job, request: DrawRequest) -> None:
        request = replace(request, work=max(job.remaining, 1) * job.samples)
        for attempt in range(ATTEMPTS):
            seconds = job.deadline - self.clock()
            if seconds <= 0:
                break
            try:
                await self._draw_once(job, replace(request, deadline=min(seconds, self.options.seconds)))
                return
            except ReplicaLost as error:
                message = f"a replica was lost, attempt {attempt + 1} of {ATTEMPTS}: {error}"
                self.report_error(message)
                await asyncio.sleep(PAUSE)
        else:
            failure = Failure("the replicas that drew it were lost", "replica-lost", 503)
            self.end(job, JobEnd("failed", failure))
            return
        self.end(job, JobEnd("failed", LATE))

    async def _draw_once(self, job: Job, request: DrawRequest) -> None:
        events = self._draw(request)
        try:
            async for event in events:
                status = event.status if event.end is None else job.status
                job.follow(status, event.step, event.steps, event.preview, event.partials)
                if event.end is not None:
                    self.end(job, event.end)
                    return
        finally:
            await events.aclose()
        raise ReplicaLost("its events ended before the job")

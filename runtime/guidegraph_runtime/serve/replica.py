"""A replica's side of a request that another process has accepted: its events as data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from guidegraph_runtime.serve.job_service import JobService
from guidegraph_runtime.serve.job_watch import HEARTBEAT, JobWatch
from guidegraph_runtime.serve.jobs import Failure, Status
from guidegraph_runtime.serve.request_checks import DrawRequest, RequestRefused


@dataclass(frozen=True)
class ReplicaEvent:
    """The state of a job at a replica. Its fields are those of ``Job``; outputs are there at the end."""

    status: Status
    step: int = 0
    steps: int = 0
    preview: tuple[int, bytes] = (0, b"")
    failure: Failure | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)
    output_bytes: int = 0

    @property
    def is_last(self) -> bool:
        """Whether the job has ended."""
        return self.status not in ("queued", "running")


async def iterate_replica_events(service: JobService, request: DrawRequest) -> AsyncIterator[ReplicaEvent]:
    """Draw a request, and yield its state after each change, up to its end. Whoever ends the iteration cancels it."""
    try:
        job = await asyncio.to_thread(service.submit, request)
    except RequestRefused as refusal:
        yield ReplicaEvent("failed", failure=Failure(refusal.message, refusal.code, refusal.status))
        return
    try:
        with JobWatch(job) as watch:
            while not job.ended.is_set():
                yield ReplicaEvent(job.status, job.step, job.steps, job.preview)
                await watch.wait(HEARTBEAT)
        yield ReplicaEvent(job.status, job.step, job.steps, job.preview, job.failure, job.outputs, job.output_bytes)
    finally:
        service.cancel(job)  # does nothing to a job that has ended

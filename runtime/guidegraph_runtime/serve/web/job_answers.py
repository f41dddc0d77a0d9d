"""Jobs as JSON and as server-sent events."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from guidegraph_runtime.serve.job_watch import HEARTBEAT, JobWatch
from guidegraph_runtime.serve.jobs import Job


def describe_job(job: Job, outputs: bool = True) -> dict[str, Any]:
    """A job as JSON."""
    content: dict[str, Any] = {
        "id": job.id,
        "bundle": job.bundle,
        "status": job.status,
        "step": job.step,
        "steps": job.steps,
        "created": int(job.created),
    }
    if job.warnings:
        content["warnings"] = [*job.warnings]
    if job.status == "done" and outputs:
        content["outputs"] = dict(job.outputs)
    if job.failure is not None:
        content["error"] = {"message": job.failure.message, "code": job.failure.code, "status": job.failure.status}
    return content


async def wait_for_end(job: Job, request: Request) -> bool:
    """Wait until a job has ended. False if the client goes away before."""
    with JobWatch(job, previews=False) as watch:
        waits = [asyncio.ensure_future(_wait_for_disconnect(request)), asyncio.ensure_future(watch.wait_for_end())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for future in waits:
                future.cancel()
    return job.ended.is_set()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """The events of a job. on_end: called when the answer has ended, even if its reader went away before the first."""

    def __init__(self, job: Job, headers: Mapping[str, str], on_end: Callable[[], object]):
        super().__init__(iterate_events(job), media_type="text/event-stream", headers=headers)
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def iterate_events(job: Job) -> AsyncIterator[str]:
    """Server-sent events: ``progress`` after each step, ``preview`` with a picture, and one ``end``."""
    shown = (0, b"")
    with JobWatch(job) as watch:
        while True:
            has_ended = job.ended.is_set()
            preview = job.preview
            if preview != shown and preview[1] and not has_ended:
                shown = preview
                yield _format_event("preview", {"step": preview[0], "b64_json": b64encode(preview[1]).decode()})
            if has_ended:
                yield _format_event("end", describe_job(job))
                return
            yield _format_event("progress", describe_job(job, outputs=False))
            while not await watch.wait(HEARTBEAT):
                yield ": nothing new\n\n"


def _format_event(name: str, content: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(content, allow_nan=False)}\n\n"

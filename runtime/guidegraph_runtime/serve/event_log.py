"""The server's log: a line of JSON for each event, on stdout. Prompts and other parameters are not in it."""

from __future__ import annotations

import time
from contextlib import suppress
from threading import Lock
from typing import Any

from guidegraph_runtime.printing import print_json
from guidegraph_runtime.serve.jobs import Job
from guidegraph_runtime.serve.observers import RequestTrace, ServeObserver, current_trace
from guidegraph_runtime.serve.options import LEVELS


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

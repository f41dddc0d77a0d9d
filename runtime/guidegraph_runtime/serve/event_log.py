"""The server's log: a line of JSON for each event, on stdout. Prompts and other parameters are not in it."""

from __future__ import annotations

import time
from contextlib import suppress
from threading import Lock
from typing import Any

from guidegraph_runtime.printing import print_json
from guidegraph_runtime.serve.jobs import Job
from guidegraph_runtime.serve.observers import ServeObserver


class EventLog(ServeObserver):
    """Prints events. A line that cannot be written (on a full disk, for example) is lost."""

    def __init__(self) -> None:
        self._lock = Lock()

    def print(self, event: str, **fields: Any) -> None:
        """Print an event with the seconds since 1970."""
        with self._lock, suppress(OSError, ValueError):
            print_json({"time": round(time.time(), 3), "event": event, **fields})

    def on_accept(self, job: Job) -> None:
        self.print("job_accepted", id=job.id, bundle=job.bundle, steps=job.steps, samples=job.samples)

    def on_refuse(self, code: str) -> None:
        self.print("request_refused", code=code)

    def on_end(self, job: Job, seconds: float) -> None:
        fields: dict[str, Any] = {"status": job.status, "step": job.step, "seconds": round(seconds, 3)}
        if job.failure is not None:
            fields |= {"code": job.failure.code, "message": job.failure.message}
        self.print("job_ended", id=job.id, bundle=job.bundle, **fields)

    def on_open(self, bundle: str, seconds: float) -> None:
        self.print("bundle_opened", bundle=bundle, seconds=round(seconds, 3))

    def on_drop(self, bundle: str) -> None:
        self.print("bundle_dropped", bundle=bundle)

    def on_error(self, bundle: str, message: str) -> None:
        self.print("error", bundle=bundle, message=message)

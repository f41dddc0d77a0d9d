"""The service of one machine: bundles that are opened at need, with a worker for each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from guidegraph_runtime.serve.encode_outputs import encode_outputs
from guidegraph_runtime.serve.job_service import JobService
from guidegraph_runtime.serve.jobs import Job
from guidegraph_runtime.serve.lane import CallBudget
from guidegraph_runtime.serve.observers import ServeObserver
from guidegraph_runtime.serve.options import ServeOptions
from guidegraph_runtime.serve.previews import encode_partial, encode_preview
from guidegraph_runtime.serve.requests import DrawRequest
from guidegraph_runtime.serve.shelf import BundleShelf
from guidegraph_runtime.serve.worker import Worker, WorkerSettings
from guidegraph_runtime.sessions.sessions import SessionSettings

MAX_RETRY_SECONDS = 600


class Service(JobService):
    """Bundles of this machine. Raises ``BundleError`` for a bundle that cannot be served."""

    def __init__(
        self,
        folders: Mapping[str, Path],
        settings: SessionSettings,
        options: ServeOptions | None = None,
        observers: Sequence[ServeObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        options = options or ServeOptions()
        self._shelf = BundleShelf(folders, settings, options.bundle_memory, observers, clock)
        super().__init__(self._shelf.entries, options, observers, clock)
        worker_settings = WorkerSettings(
            options.batch,
            options.run_memory,
            self.checks.limits,
            options.steps,
            self._encode,
            self._preview,
            self._draw_partial,
            CallBudget(self.checks.call_memory),
        )
        self._workers = {name: Worker(name, self._shelf, worker_settings, self.observers, clock) for name in folders}

    def start(self) -> None:
        """Start the workers."""
        for worker in self._workers.values():
            worker.start()

    def stop(self) -> None:
        """End all jobs and the workers."""
        self.drain()
        self.end_jobs()
        for worker in self._workers.values():
            worker.stop()
        self._shelf.close()

    def begin(self, job: Job, request: DrawRequest) -> None:
        self._workers[job.bundle].add(job)

    def estimate_wait(self) -> int:
        """Seconds until about a tenth of the queued iterations are done: then some requests have ended."""
        waits = [
            worker.count_waiting_steps() / self.options.batch * worker.step_seconds for worker in self._workers.values()
        ]
        return min(max(math.ceil(max(waits) / 10), 1), MAX_RETRY_SECONDS)

    def _preview(self, job: Job) -> bytes:
        return encode_preview(self.entries[job.bundle].manifest, job)

    def _draw_partial(self, job: Job) -> bytes:
        return encode_partial(self.entries[job.bundle].manifest, job)

    def _encode(self, job: Job, outputs: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
        return encode_outputs(self.entries[job.bundle].checks, job.params, job.nodes, outputs)

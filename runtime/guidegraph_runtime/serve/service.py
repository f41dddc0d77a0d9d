"""The service of one machine: bundles that are opened at need, with a worker for each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from guidegraph_runtime.bundle.manifest_types import Manifest
from guidegraph_runtime.bundle.preview import draw_preview
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.outputs import pixels
from guidegraph_runtime.pictures.png import encode_png
from guidegraph_runtime.serve.encode_outputs import encode_outputs
from guidegraph_runtime.serve.job_service import JobService
from guidegraph_runtime.serve.jobs import Job
from guidegraph_runtime.serve.lane import CallBudget
from guidegraph_runtime.serve.observers import ServeObserver
from guidegraph_runtime.serve.options import ServeOptions
from guidegraph_runtime.serve.requests import DrawRequest
from guidegraph_runtime.serve.shelf import BundleShelf
from guidegraph_runtime.serve.worker import Worker, WorkerSettings
from guidegraph_runtime.sessions.sessions import SessionSettings


def encode_preview(manifest: Manifest, job: Job) -> bytes:
    """The preview of the first picture of a job; empty if the bundle has none, or the run is at another loop."""
    run = job.run  # another thread may end the job meanwhile
    if manifest.preview is None or run is None:
        return b""
    pictures = draw_preview(manifest.preview, run.read_carries())
    return b"" if pictures is None or not np.isfinite(pictures[0]).all() else encode_png(pixels(pictures[0]))


def encode_partial(manifest: Manifest, job: Job) -> bytes:
    """The first picture of a job, made of its unfinished sample as that of the finished one would be; empty without.

    The graphs of a bundle give the next sample and no estimate of the final one, so early pictures are noisy.
    """
    run = job.run  # another thread may end the job meanwhile
    output = next((name for name, output in manifest.outputs.items() if output.type == "image"), None)
    if run is None or output is None:
        return b""
    try:
        picture = run.draw_now(output)
        return b"" if picture is None else encode_png(pixels(picture[0]))
    except (BundleError, ValueError):  # it only shows the progress: the run may still end well
        return b""


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

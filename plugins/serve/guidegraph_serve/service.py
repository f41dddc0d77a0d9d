"""The service of one machine: bundles that are opened at need, with a worker for each."""

from __future__ import annotations

import math
import time
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import Manifest
from guidegraph_runtime.bundle.preview import draw_preview
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.output_formats import pixels, plain_table, split_pictures, write_encoded
from guidegraph_runtime.pictures.png import encode_png
from guidegraph_runtime.record import make_record
from guidegraph_runtime.running.bundle import Bundle
from guidegraph_runtime.sessions.sessions import SessionSettings
from guidegraph_serve.job_service import JobService
from guidegraph_serve.jobs import DrawRequest, Job, ServeOptions
from guidegraph_serve.lane import CallBudget
from guidegraph_serve.observers import ServeObserver
from guidegraph_serve.shelf import BundleShelf
from guidegraph_serve.worker import Worker, WorkerSettings


def encode_outputs(
    bundle: Bundle, params: Mapping[str, Any], nodes: Mapping[str, Any], outputs: Mapping[str, NDArray[Any]]
) -> tuple[dict[str, Any], int]:
    """Outputs by name as JSON, and their size in bytes.

    An image is ``{"type": "image", "data": [{"b64_json": …}, …]}``, one entry for each picture of the batch, whose PNG
    carries the bundle and the parameters as one of ``guidegraph-run`` does. A tensor is
    ``{"type": "tensor", "safetensors": …}`` with its name as the key, numbers and tables, as dicts
    of their columns, are ``{"type": "table", "value": …}``. A tensor that installed plugins write also has
    ``"files": [{"name": …, "base64": …}, …]``, and ``"failure"`` with a message if one of them failed.
    Raises ``ValueError`` for values that cannot be written.
    """
    record = make_record(bundle, params, nodes, None)
    encoded: dict[str, Any] = {}
    size = 0
    for name, value in outputs.items():
        output = bundle.manifest.outputs[name]
        kind = output.type
        if kind == "image":
            try:
                pictures = split_pictures(value)
                texts = [record.text(name, i, len(pictures)) for i in range(len(pictures))]
                files = [b64encode(encode_png(*pair)).decode() for pair in zip(pictures, texts, strict=True)]
            except ValueError as error:
                raise ValueError(f"output '{name}' {error}") from error
            encoded[name] = {"type": kind, "data": [{"b64_json": file} for file in files]}
            size += sum(map(len, files))
        elif kind == "table" or value.dtype.kind in "US":
            encoded[name] = {"type": "table", "value": plain_table(value)}
            size += value.nbytes
        else:
            from safetensors.numpy import save

            text = b64encode(save({name: value})).decode()
            encoded[name] = {"type": kind, "safetensors": text}
            size += len(text)
            if output.port:
                written, failure = write_encoded(name, value, output.port, output.axes)
                encoded[name] |= {"files": written} if written else {}
                encoded[name] |= {"failure": failure} if failure else {}
                size += sum(len(file["base64"]) for file in written)
    return encoded, size


def encode_preview(manifest: Manifest, job: Job) -> bytes:
    """The preview of the first picture of a job; empty if the bundle has none, or the run is at another loop."""
    run = job.run  # another thread may end the job meanwhile
    if manifest.preview is None or run is None:
        return b""
    pictures = draw_preview(manifest.preview, run.read_carries())
    return b"" if pictures is None or not np.isfinite(pictures[0]).all() else encode_png(pixels(pictures[0]))


def encode_partial(manifest: Manifest, job: Job) -> bytes:
    """The first picture of a job, decoded from its unfinished sample as from a finished one; empty without.

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
            lambda job, outputs: encode_outputs(self.entries[job.bundle].checks, job.params, job.nodes, outputs),
            lambda job: encode_preview(self.entries[job.bundle].manifest, job),
            lambda job: encode_partial(self.entries[job.bundle].manifest, job),
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

"""The service behind the server's routes: it checks requests, queues them, and ends them. It knows nothing of HTTP."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from guidegraph_runtime.allowed_files import takes_file
from guidegraph_runtime.bundle.manifest_types import FILE_TYPES
from guidegraph_runtime.errors import BundleError, suggest_name
from guidegraph_runtime.limits import current_limits, enforce_limits
from guidegraph_runtime.running.bundle import Prepared
from guidegraph_runtime.running.inputs import check_value, find_spec
from guidegraph_runtime.running.overrides import host_operations
from guidegraph_runtime.serve.encode_outputs import encode_outputs
from guidegraph_runtime.serve.jobs import Failure, Job, JobStore
from guidegraph_runtime.serve.observers import ServeObserver, call_each
from guidegraph_runtime.serve.previews import encode_preview
from guidegraph_runtime.serve.shelf import BundleShelf, ShelfEntry
from guidegraph_runtime.serve.warning_texts import collect_warnings
from guidegraph_runtime.serve.worker import Worker, WorkerSettings
from guidegraph_runtime.sessions.sessions import SessionSettings

PRIORITIES = range(-10, 11)
MAX_RETRY_SECONDS = 600
MAX_TABLE_STEPS = 10_000
"""The longest table of a sampler or schedule that is computed to check a request."""
RAISE_IT = re.compile(r"\. If that is right, raise it.*")
"""The end of a message about a limit, which tells the person who may raise it."""

SETTING = re.compile(r"(\S+) \([\w.]+\): (\w+): ")
"""The begin of a message about a setting of an operation: "scheduler (scheduler.ddim): steps: …"."""


@dataclass(frozen=True)
class ServeOptions:
    """Limits of a server.

    batch: samples in one step, and of one request. run_memory: bytes of the values of all open runs of a bundle.
    queue: requests that have not ended. steps: iterations of a request. seconds: from a request's arrival to its end.
    body_bytes: of a request. bundle_memory: bytes of the files of all open bundles; None for no limit.
    """

    batch: int = 8
    run_memory: int = 1 << 30
    queue: int = 64
    steps: int = 200
    seconds: float = 600.0
    body_bytes: int = 1 << 16
    bundle_memory: int | None = None


@dataclass(frozen=True)
class DrawRequest:
    """A request to a bundle. nodes: overrides by ``node.setting``. deadline: seconds from now; None for the longest."""

    bundle: str
    params: Mapping[str, Any]
    nodes: Mapping[str, Any] | None = None
    priority: int = 0
    deadline: float | None = None


class RequestRefused(Exception):
    """A request that is not queued. status: of the answer over HTTP. param: the parameter that is wrong.

    retry_after: seconds after which it may be sent again.
    """

    def __init__(
        self, message: str, param: str | None = None, code: str = "bad-request", status: int = 400, retry_after: int = 0
    ):
        super().__init__(message)
        self.message, self.param, self.code, self.status, self.retry_after = message, param, code, status, retry_after


class Service:
    """Bundles, their workers, and the jobs. Its methods may be called in any thread.

    Raises ``BundleError`` for a bundle that cannot be served.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        settings: SessionSettings,
        options: ServeOptions | None = None,
        observers: Sequence[ServeObserver] = (),
        clock: Callable[[], float] = time.monotonic,
    ):
        self.options, self._observers, self._clock = options or ServeOptions(), observers, clock
        self.jobs = JobStore()
        self.is_draining = False
        limits = current_limits()
        seconds = self.options.seconds
        self._limits = replace(limits, steps=min(limits.steps, MAX_TABLE_STEPS), seconds=seconds, call_seconds=seconds)
        self.shelf = BundleShelf(folders, settings, self.options.bundle_memory, observers, clock)
        worker_settings = WorkerSettings(
            self.options.batch, self.options.run_memory, self._limits, self.options.steps, self._encode, self._preview
        )
        self._workers = {name: Worker(name, self.shelf, worker_settings, observers, clock) for name in folders}
        self._lock = Lock()

    def start(self) -> None:
        """Start the workers."""
        for worker in self._workers.values():
            worker.start()

    def drain(self) -> None:
        """Refuse new requests from now on; those that were accepted go on."""
        self.is_draining = True

    @property
    def is_idle(self) -> bool:
        """Whether all jobs have ended."""
        with self._lock:
            return not self.jobs.list_open()

    def end_jobs(self) -> None:
        """End all jobs now."""
        for job in self.jobs.list_open():
            self._end(job, Failure("the server was stopped", "stopped", 503))

    def stop(self) -> None:
        """End all jobs and the workers."""
        self.drain()
        self.end_jobs()
        for worker in self._workers.values():
            worker.stop()
        self.shelf.close()

    def find_entry(self, name: str) -> ShelfEntry:
        """A bundle by name. Raises ``RequestRefused``."""
        if name not in self.shelf.entries:
            message = f"there is no bundle '{name[:80]}'; {suggest_name(name, self.shelf.entries)}"
            raise RequestRefused(message, "model", "unknown-bundle", 404)
        return self.shelf.entries[name]

    def submit(self, request: DrawRequest) -> Job:
        """Check a request, and queue it. Raises ``RequestRefused``."""
        entry = self.find_entry(request.bundle)
        self._check_admission()
        seconds = self._check_terms(request)
        arrival = self._clock()
        with collect_warnings() as warnings:
            prepared = self._prepare(entry, request)
        deadline, nodes = arrival + seconds, request.nodes or {}
        job = Job(request.bundle, request.params, prepared, request.priority, deadline, nodes, warnings)
        with self._lock:  # so that `is_idle` sees each job that is accepted
            self._check_admission()
            if not self.jobs.add(job, self.options.queue):
                raise self._refuse_full()
            call_each(self._observers, lambda observer: observer.on_accept(job))
            self._workers[request.bundle].add(job)
        return job

    def cancel(self, job: Job) -> bool:
        """End a job; its run is dropped between two steps. Returns whether it had not ended yet."""
        return self._end(job, Failure("the request was cancelled", "cancelled", 409))

    def _end(self, job: Job, failure: Failure) -> bool:
        is_first = job.end("cancelled", failure)
        if is_first:
            call_each(self._observers, lambda observer: observer.on_end(job, max(0.0, time.time() - job.created)))
        return is_first

    def report_refusal(self, code: str) -> None:
        """Tell the observers of a request that was refused."""
        call_each(self._observers, lambda observer: observer.on_refuse(code))

    def report_error(self, message: str) -> None:
        """Tell the observers of an error of the server itself."""
        call_each(self._observers, lambda observer: observer.on_error("", message))

    def _check_admission(self) -> None:
        if self.is_draining:
            raise RequestRefused("the server is shutting down", code="draining", status=503, retry_after=1)
        if len(self.jobs.list_open()) >= self.options.queue:
            raise self._refuse_full()

    def _refuse_full(self) -> RequestRefused:
        message = f"{self.options.queue} requests are in the queue: try again later"
        return RequestRefused(message, code="queue-full", status=429, retry_after=self._estimate_wait())

    def _estimate_wait(self) -> int:
        """Seconds until about a tenth of the queued iterations are done: then some requests have ended."""
        waits = [
            worker.count_waiting_steps() / self.options.batch * worker.step_seconds for worker in self._workers.values()
        ]
        return min(max(math.ceil(max(waits) / 10), 1), MAX_RETRY_SECONDS)

    def _check_terms(self, request: DrawRequest) -> float:
        """The seconds that the request may take. Raises ``RequestRefused``."""
        if request.priority not in PRIORITIES:
            ends = f"{PRIORITIES[0]} to {PRIORITIES[-1]}"
            raise RequestRefused(f"expected a priority from {ends}, found {request.priority}", "priority")
        seconds = self.options.seconds if request.deadline is None else request.deadline
        if not 0 < seconds <= self.options.seconds:
            message = f"expected a deadline above 0 and up to {self.options.seconds:g} seconds, found {seconds:g}"
            raise RequestRefused(message, "deadline")
        return seconds

    def _prepare(self, entry: ShelfEntry, request: DrawRequest) -> Prepared:
        """Check all values of a request, and compute tokens and tables. Raises ``RequestRefused``."""
        params = {name: self._check_param(entry, name, value) for name, value in request.params.items()}
        nodes = request.nodes or {}
        _check_nodes(entry, nodes)
        try:
            with enforce_limits(self._limits):
                prepared = entry.checks.prepare(params, nodes)
        except BundleError as error:
            message = RAISE_IT.sub("", error.message)
            raise RequestRefused(message, _find_param(entry, message), error.code) from error
        self._check_demand(entry, prepared)
        return prepared

    def _check_param(self, entry: ShelfEntry, name: str, value: Any) -> Any:
        try:
            spec = find_spec(entry.manifest, name, entry.name)
            if spec.type in FILE_TYPES:
                message = f"'{name}' is a file ({spec.type}), and this server takes no files: leave it out"
                raise RequestRefused(message, name, "forbidden-read")
            return check_value(name, spec, value, entry.name)
        except BundleError as error:
            raise RequestRefused(error.message, name, error.code) from error

    def _check_demand(self, entry: ShelfEntry, prepared: Prepared) -> None:
        demand, options = prepared.demand, self.options
        if demand.samples > options.batch:
            message = f"it draws {demand.samples} samples at once, and this server allows {options.batch}"
            raise RequestRefused(message, "batch" if "batch" in entry.manifest.inputs else None, "over-limit")
        if demand.steps > options.steps:
            message = f"it takes {demand.steps} steps, and this server allows {options.steps}"
            raise RequestRefused(message, "steps" if "steps" in entry.manifest.inputs else None, "over-limit")
        if demand.nbytes > options.run_memory:
            message = f"its values take {demand.nbytes} bytes, and this server allows {options.run_memory}"
            raise RequestRefused(message, code="over-limit")

    def _preview(self, job: Job) -> bytes:
        return encode_preview(self.shelf.entries[job.bundle].manifest, job)

    def _encode(self, job: Job, outputs: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
        return encode_outputs(self.shelf.entries[job.bundle].checks, job.params, job.nodes, outputs)


def _check_nodes(entry: ShelfEntry, nodes: Mapping[str, Any]) -> None:
    """Refuse overrides of settings that name files: a request may read none."""
    operations = {operation.node: operation.op for operation in host_operations(entry.manifest.plan)}
    for name in nodes:
        node, _, setting = name.rpartition(".")
        uses = {operations.get(node, ""), str(nodes.get(f"{node}.use", ""))}
        if any(takes_file(operation, setting) for operation in uses):
            raise RequestRefused(f"'{name}' names a file, and this server takes no files", name, "forbidden-read")


def _find_param(entry: ShelfEntry, message: str) -> str | None:
    """The input that a message is about: one that it quotes, or that the setting it names is wired to."""
    inputs = entry.manifest.inputs
    if match := SETTING.match(message):
        node, setting = match.groups()
        for operation in host_operations(entry.manifest.plan):
            source = operation.inputs.get(setting, "").removeprefix("params.")
            if operation.node == node and source in inputs:
                return source
    return next((name for name in re.findall(r"'([^']+)'", message) if name in inputs), None)

"""The page's runs: a queue, one worker thread, and one cache, so that models stay loaded from run to run."""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Cancelled, GuidegraphError, NodeError, WorkflowError
from guidegraph.graph.execution.intermediates import use_viewer
from guidegraph.graph.ir import Graph
from guidegraph.graph.language.bind_parameters import bind
from guidegraph.graph.planning.admission import admission_problems
from guidegraph.graph.planning.plan import find_needed_ops
from guidegraph.graph.resolution.load import build
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.trust.folder_locks import lock_folder
from guidegraph.graph.trust.limits import enforce_limits
from guidegraph.graph.trust.policy import check_effects
from guidegraph.page.frames import FrameMaker, RunCache
from guidegraph.page.progress import JobProgress
from guidegraph.plugins.hookspecs import RunInfo
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.outputs import output_problems
from guidegraph.runs.run import RecordedRun
from guidegraph_runtime.error_text import describe_error, error_text
from guidegraph_runtime.files.run_folders import make_run_folder
from guidegraph_runtime.limits import LimitExceeded

Status = Literal["queued", "running", "done", "failed", "cancelled"]

MAX_QUEUED = 20
MAX_KEPT = 50
LABEL = "parameters"
"""The name of the form in error messages."""


class QueueFull(GuidegraphError):
    """There are too many runs in the queue."""

    status = HTTPStatus.TOO_MANY_REQUESTS


@dataclass
class Job:
    """One run of a workflow. texts: the parameters as given. path: the path of the node that failed, if one did."""

    number: int
    name: str
    texts: dict[str, str]
    graph: Graph
    values: dict[str, Any]
    status: Status = "queued"
    error: str = ""
    path: str = ""
    folder: Path | None = None
    started: float = 0.0
    seconds: float = 0.0
    token: CancelToken = field(default_factory=CancelToken)
    progress: JobProgress = field(default_factory=JobProgress)
    frames: FrameMaker | None = None
    recorded: RecordedRun | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def describe(self, since: int) -> dict[str, Any]:
        """The job as JSON, with the nodes that have changed after version ``since`` of its progress."""
        version, nodes = self.progress.changes(since)
        running = self.status == "running"
        files = dict(self.recorded.writer.files) if self.recorded else {}
        return {
            "number": self.number,
            "name": self.name,
            "params": self.texts,
            "status": self.status,
            "error": self.error,
            "path": self.path,
            "folder": self.folder.name if self.folder else "",
            "seconds": time.perf_counter() - self.started if running else self.seconds,
            "version": version,
            "nodes": nodes,
            "frame": self.frames.count if self.frames else 0,
            "outputs": files,
        }


@dataclass
class JobQueue:
    """Runs of workflows, one at a time. version: counts the changes of any job, progress aside."""

    manager: PluginManager
    config: RunConfig
    cache: RunCache
    jobs: dict[int, Job] = field(default_factory=dict)
    version: int = 0
    _pending: queue.Queue[Job | None] = field(default_factory=queue.Queue)
    _thread: threading.Thread | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="guidegraph-page-runs", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> None:
        """Cancel all runs, and wait for the current one to end."""
        for job in self.jobs.values():
            job.token.cancel()
        self._pending.put(None)
        if self._thread is not None:
            self._thread.join(seconds)

    def add(self, name: str, path: Path, texts: Mapping[str, str]) -> Job:
        """Check a workflow and its parameters, and queue a run. Raises ``WorkflowError`` and ``QueueFull``."""
        if self._pending.qsize() >= MAX_QUEUED:
            raise QueueFull(f"{MAX_QUEUED} runs are in the queue: cancel some, or wait")
        registry = self.manager.registry
        with enforce_limits(self.config.limits):
            graph = build(path, registry)
            values = bind(graph, texts, text=True, label=LABEL)
            problems = output_problems(graph, registry, None)
            check_effects(find_needed_ops(graph, None, values), values, self.config.policy)
            if problems := problems or admission_problems(graph, values):
                raise WorkflowError(problems)
        job = Job(next(self._numbers), name, dict(texts), graph, values)
        self.jobs[job.number] = job
        for number in [*self.jobs][:-MAX_KEPT]:
            self.jobs[number].recorded = self.jobs[number].frames = None
        self._pending.put(job)
        self.version += 1
        return job

    def wait(self, number: int, timeout: float) -> None:
        """Wait until a run has ended. Raises ``TimeoutError``."""
        if not self.jobs[number].ended.wait(timeout):
            raise TimeoutError(f"run {number} has not ended after {timeout:g} seconds")

    def cancel(self, number: int) -> None:
        """Cancel a run that is queued or running; does nothing for any other."""
        if (job := self.jobs.get(number)) is not None and job.status in ("queued", "running"):
            job.token.cancel()
            if job.status == "queued":
                job.status = "cancelled"
                job.ended.set()
            self.version += 1

    def state(self) -> tuple[int, int, int]:
        """A value that changes whenever a job or the progress of one does, and every second while one runs."""
        jobs = self.newest()
        progress = sum(job.progress.version + (job.frames.count if job.frames else 0) for job in jobs)
        running = sum(int(time.perf_counter() - job.started) for job in jobs if job.status == "running")
        return self.version, progress, running

    def newest(self) -> list[Job]:
        """The jobs that the page shows."""
        return list(self.jobs.values())[-MAX_KEPT:]

    def _work(self) -> None:
        while (job := self._pending.get()) is not None:
            if not job.token.cancelled:
                self._run(job)
            job.ended.set()
            self.version += 1

    def _run(self, job: Job) -> None:
        """Run a job. An exception becomes its status and its error."""
        job.started, job.status = time.perf_counter(), "running"
        job.frames = FrameMaker(job.graph, self.cache)
        self.version += 1
        status: Status = "done"
        try:
            self._execute(job, job.frames)
        except Cancelled:
            status = "cancelled"
        except NodeError as error:
            status, job.error, job.path = "failed", str(error), error.path
        except (GuidegraphError, LimitExceeded, OSError) as error:
            status, job.error = "failed", error_text(error)
        except Exception as error:  # code of a node or of a plugin: the server goes on
            status, job.error = "failed", describe_error(error)
        job.seconds, job.status = time.perf_counter() - job.started, status

    def _execute(self, job: Job, frames: FrameMaker) -> None:
        job.folder = Path(os.path.abspath(make_run_folder(None, job.graph.name)))
        job.recorded = RecordedRun(job.graph, self.manager.registry, job.values, self.config, job.folder)
        info = RunInfo(job.graph, job.values, self.config.device, self.config.dtype)
        with ExitStack() as stack:
            stack.enter_context(lock_folder(job.folder, "guidegraph open"))
            stack.enter_context(use_viewer(frames))
            job.recorded.run([job.progress, *self.manager.observers(info)], job.token, self.cache)

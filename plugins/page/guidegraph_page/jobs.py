"""The page's runs: a queue, one worker thread, and one cache, so that models stay loaded from run to run."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from guidegraph.graph import events
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Cancelled, GuidegraphError, NodeError, WorkflowError
from guidegraph.graph.events import Observer
from guidegraph.graph.execution.watched_sizes import use_viewer
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.stopping.choose_loop import list_stoppable_loops
from guidegraph.graph.stopping.loop_state import LoopStopped, StopToken
from guidegraph.graph.trust.file_checks import lock_folder
from guidegraph.graph.trust.limits import enforce_limits
from guidegraph.plugins.manager import PluginManager
from guidegraph.runs.outputs import OutputWriter
from guidegraph.runs.stopped_run import StoppedRun
from guidegraph.session import Prepared, Session, list_folder_problems, make_folder
from guidegraph_lab.sweep.run import Sweep
from guidegraph_page.frames import FrameMaker, RunCache, ValueKeys
from guidegraph_page.grids import make_sweep, run_grid
from guidegraph_page.strangers import WorkflowSource
from guidegraph_runtime.error_text import describe_error, error_text
from guidegraph_runtime.files.run_folders import RUNS
from guidegraph_runtime.limits import LimitExceeded

Status = Literal["queued", "running", "done", "failed", "cancelled", "stopped"]


class JobProgress:
    """An observer that keeps the newest state of each node by path. Read by another thread than the run's.

    version: counts the changes, and the outputs that are ready.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nodes: dict[str, dict[str, Any]] = {}
        self.version = 0

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.NodeStarted():
                self._update(event.path, state="running")
            case events.NodeFinished():
                self._update(event.path, state="done", seconds=event.seconds, origin=event.origin)
            case events.NodeTotals():
                # The totals of a failed node's earlier calls in a loop come after its failure.
                has_failed = self._nodes.get(event.path, {}).get("state") == "failed"
                state = "failed" if has_failed else "done"
                self._update(event.path, state=state, seconds=event.seconds, calls=event.calls)
            case events.NodeFailed():
                self._update(event.path, state="failed", error=event.error)
            case events.LoopProgress():
                values = {name: f"{value:.4g}" for name, value in event.values.items()}
                self._update(event.path, done=event.done, total=event.total, values=values)
            case events.OutputReady():
                with self._lock:
                    self.version += 1

    def _update(self, path: str, **fields: Any) -> None:
        with self._lock:
            self.version += 1
            self._nodes[path] = {**self._nodes.get(path, {}), **fields, "version": self.version}

    def changes(self, since: int) -> tuple[int, dict[str, dict[str, Any]]]:
        """The version, and the nodes that have changed after version ``since``, by path."""
        with self._lock:
            return self.version, {path: node for path, node in self._nodes.items() if node["version"] > since}


@dataclass
class Job:
    """One run of a workflow, or a grid of runs. path: of the node that failed, if any.

    prepared: the checked run, or for a grid its session. sweep: the grid. cells: how many of it have ended, and all.
    stopped: where it was stopped; its state is in the folder's file alone. keys: of its values in the cache.
    """

    number: int
    name: str
    prepared: Prepared
    sweep: Sweep | None = None
    cells: tuple[int, int] = (0, 0)
    status: Status = "queued"
    error: str = ""
    path: str = ""
    folder: Path | None = None
    started: float = 0.0
    seconds: float = 0.0
    token: CancelToken = field(default_factory=CancelToken)
    stop: StopToken = field(default_factory=StopToken)
    progress: JobProgress = field(default_factory=JobProgress)
    frames: FrameMaker | None = None
    writer: OutputWriter | None = None
    stopped: dict[str, Any] | None = None
    keys: ValueKeys | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @cached_property
    def stoppable(self) -> list[str]:
        """The paths of the loops that can be stopped after a step."""
        return [f"nodes.{key}" for key in list_stoppable_loops(self.prepared.session.graph.ops)]

    def describe(self, since: int) -> dict[str, Any]:
        """The job as JSON, with the nodes that have changed after version ``since`` of its progress."""
        status = self.status  # before its outputs and its state to go on from, which are complete when it has ended
        version, nodes = self.progress.changes(since)
        running = status == "running"
        return {
            "number": self.number,
            "name": self.name,
            "status": status,
            "error": self.error,
            "path": self.path,
            "folder": self.folder.name if self.folder else "",
            "seconds": time.perf_counter() - self.started if running else self.seconds,
            "version": version,
            "nodes": nodes,
            "frame": self.frames.count if self.frames else 0,
            "outputs": dict(self.writer.files) if self.writer else {},
            "shown": [*self.writer.shown] if self.writer else [],
            "stopped": self.stopped,
            "stoppable": self.stoppable,
            "stopping": self.stop.requested,
            "cells": list(self.cells) if self.sweep else None,
        }


MAX_QUEUED = 20
MAX_KEPT = 50
LABEL = "parameters"
"""The name of the form in error messages."""


class QueueFull(GuidegraphError):
    """There are too many runs in the queue."""

    status = HTTPStatus.TOO_MANY_REQUESTS


@dataclass
class JobQueue:
    """Runs of workflows, one at a time. version: counts the changes of any job, progress aside.

    watchers: the number of pages that are told of the runs; without any, no previews are made.

    jobs: those that are queued or running, and the last ``MAX_KEPT`` that have ended, by number.
    """

    manager: PluginManager
    config: RunConfig
    cache: RunCache
    jobs: dict[int, Job] = field(default_factory=dict)
    version: int = 0
    watchers: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)  # guards the jobs and their status
    _is_stopping: bool = False
    _running: Job | None = None
    _thread: threading.Thread | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="guidegraph-page-runs", daemon=True)
        self._thread.start()

    def stop(self, seconds: float = 5.0) -> bool:
        """Cancel all runs, and wait for the current one to end. Returns whether it has."""
        with self._changed:
            self._is_stopping = True
            for job in self.jobs.values():
                job.token.cancel()
            for job in self._list_queued():
                self._end(job, "cancelled")
            self._report_change()
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is None or not self._thread.is_alive()

    def add(
        self, name: str, source: WorkflowSource, texts: Mapping[str, str], earlier: StoppedRun | None = None
    ) -> Job:
        """Check a workflow and its parameters, and queue a run. Raises ``WorkflowError`` and ``QueueFull``.

        earlier: a stopped run to go on from, with these parameters.
        """
        config = source.complete(self.config, texts)
        with enforce_limits(config.limits):
            session = self._start_session(name, source, config, earlier)
            problems = list_folder_problems({"runs": RUNS})
            prepared = session.prepare(texts, text=True, label=LABEL, problems=problems)
        return self._enqueue(Job(next(self._numbers), name, prepared))

    def add_grid(self, name: str, source: WorkflowSource, texts: Mapping[str, str], axes: Mapping[str, str]) -> Job:
        """Check a grid of runs, and queue it. axes: the texts of the values of one or two parameters, by name.

        Raises ``WorkflowError`` and ``QueueFull``.
        """
        config = source.complete(self.config, {*texts, *axes})
        with enforce_limits(config.limits):
            session = self._start_session(name, source, config)
            sweep = make_sweep(session, texts, axes)
            problems = [*list_folder_problems({"runs": RUNS}), *session.list_output_problems()]
            for point in sweep.grid.points():
                problems = problems or session.list_problems({**sweep.grid.base, **point})
            if problems:
                raise WorkflowError(problems)
        return self._enqueue(Job(next(self._numbers), name, Prepared(session, {}), sweep=sweep))

    def _start_session(
        self, name: str, source: WorkflowSource, config: RunConfig, earlier: StoppedRun | None = None
    ) -> Session:
        registry = self.manager.registry
        return Session(source.build_for_run(registry), config, registry, earlier, source.recipe, Path(name))

    def _enqueue(self, job: Job) -> Job:
        with self._changed:
            if len(self._list_queued()) >= MAX_QUEUED:
                raise QueueFull(f"{MAX_QUEUED} runs are in the queue: cancel some, or wait")
            self.jobs[job.number] = job
            self._report_change()
        return job

    def wait(self, number: int, timeout: float) -> None:
        """Wait until a run has ended. Raises ``TimeoutError``."""
        if not self.jobs[number].ended.wait(timeout):
            raise TimeoutError(f"run {number} has not ended after {timeout:g} seconds")

    def read_values(self, number: int, key: str) -> dict[str, Any]:
        """The values of an operation's outputs by name, in a run that has ended; empty if they are not kept."""
        job = self.jobs.get(number)
        return self.cache.read_values(job.keys, key) if job is not None and job.keys is not None else {}

    def make_preview(self, number: int, key: str, output: str, value: Any) -> str | bytes | None:
        """A plugin's preview of a value of its own type: a text or a PNG; ``None`` without one."""
        job = self.jobs.get(number)
        if job is None or job.keys is None or key not in job.keys.outputs:
            return None
        return self.manager.preview(value, job.keys.outputs[key][output])

    def cancel(self, number: int) -> None:
        """Cancel a run that is queued or running; does nothing for any other."""
        with self._changed:
            if (job := self.jobs.get(number)) is None:
                return
            job.token.cancel()
            if job.status == "queued":
                self._end(job, "cancelled")

    def stop_run(self, number: int) -> None:
        """Stop a run after its current step, to look at it and go on; does nothing for one that is not running."""
        with self._changed:
            if (job := self.jobs.get(number)) is not None and job.status == "running":
                job.stop.stop()
                self._report_change()

    def state(self) -> tuple[int, int, int]:
        """A value that changes whenever a job or the progress of one does, and every second while one runs.

        Its first part changes with the jobs, the others with the progress of the running one.
        """
        version, job = self.version, self._running
        if job is None:
            return version, 0, 0
        progress = job.progress.version + (job.frames.count if job.frames else 0)
        return version, progress, int(time.perf_counter() - job.started)

    def list_jobs(self) -> list[Job]:
        """The jobs that the page shows, oldest first."""
        with self._changed:
            return list(self.jobs.values())

    def _list_queued(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.status == "queued"]

    def _report_change(self) -> None:
        self.version += 1
        self._changed.notify_all()

    def _end(self, job: Job, status: Status) -> None:
        job.status = status
        # The state that it went on from may be large.
        job.prepared = replace(job.prepared, session=replace(job.prepared.session, stopped=None))
        job.ended.set()
        for number in [number for number, job in self.jobs.items() if job.ended.is_set()][:-MAX_KEPT]:
            del self.jobs[number]
        self._report_change()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_stopping or self._list_queued())
                if self._is_stopping:
                    return
                job = self._list_queued()[0]
                job.started, job.status = time.perf_counter(), "running"
                self._running = job
                self._report_change()
            status: Status = "failed"
            try:
                status = self._run(job)
            except BaseException as error:  # code of a plugin may raise anything, and the next runs need this thread
                job.error = describe_error(error)
            job.seconds = time.perf_counter() - job.started
            with self._changed:
                self._running = None
                self._end(job, status)

    def _run(self, job: Job) -> Status:
        """Run a job, and return its status at the end. An exception becomes that and its error."""
        job.frames = FrameMaker(job.prepared.session.graph, self.cache, lambda: self.watchers > 0)
        status: Status = "done"
        try:
            if job.sweep is None:
                self._execute(job, job.frames)
            else:
                self._execute_grid(job, job.sweep)
        except LoopStopped:
            job.frames.finish()
            status = "stopped"
        except Cancelled:
            status = "cancelled"
        except NodeError as error:
            status, job.error, job.path = "failed", str(error), error.path
        except (GuidegraphError, LimitExceeded, OSError) as error:
            status, job.error = "failed", error_text(error)
        except Exception as error:  # code of a node or of a plugin: the server goes on
            status, job.error = "failed", describe_error(error)
        finally:
            job.frames.forget()
            self.cache.plan = None
        return status

    def _execute_grid(self, job: Job, sweep: Sweep) -> None:
        self.cache.clear()  # a sweep has a cache of its own, with a limit as if there were no other
        job.folder = Path(os.path.abspath(make_folder(None, f"{sweep.session.graph.name}-sweep")))

        def report(done: int, total: int) -> None:
            job.cells = done, total
            with self._changed:
                self._report_change()

        run_grid(sweep, job.folder, self.manager, job.token, report)

    def _execute(self, job: Job, frames: FrameMaker) -> None:
        graph, config, values = job.prepared.session.graph, job.prepared.session.config, job.prepared.values
        job.folder = Path(os.path.abspath(make_folder(None, graph.name)))
        recorded = job.prepared.record(job.folder)
        job.writer = recorded.writer
        with ExitStack() as stack:
            stack.enter_context(lock_folder(job.folder, "guidegraph open"))
            stack.enter_context(use_viewer(frames))
            try:
                observers: list[Observer] = [job.progress, *self.manager.observers(graph, values, config)]
                recorded.run(observers, job.token, self.cache, job.stop)
            finally:
                job.keys = ValueKeys.of(self.cache.plan) if self.cache.plan else None
                job.stopped = recorded.stopped.describe() if recorded.stopped else None

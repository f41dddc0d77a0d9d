"""One run of the page: its status, and its progress by node."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from guidegraph.graph import events
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.stopping.choose_loop import list_stoppable_loops
from guidegraph.graph.stopping.loop_state import StopToken
from guidegraph.page.frames import FrameMaker, ValueKeys
from guidegraph.runs.outputs import OutputWriter
from guidegraph.session import Prepared
from guidegraph.sweep.run import Sweep

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
            "stopped": self.stopped,
            "stoppable": self.stoppable,
            "stopping": self.stop.requested,
            "cells": list(self.cells) if self.sweep else None,
        }

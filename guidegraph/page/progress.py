"""The progress of a run for the page: the state of each node and loop, and those that changed since a version."""

from __future__ import annotations

import threading
from typing import Any

from guidegraph.graph import events


class JobProgress:
    """An observer that keeps the newest state of each node by path. Read by another thread than the run's.

    version: counts the changes.
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
                self._update(event.path, state="done", seconds=event.seconds, calls=event.calls)
            case events.NodeFailed():
                self._update(event.path, state="failed", error=event.error)
            case events.LoopProgress():
                values = {name: f"{value:.4g}" for name, value in event.values.items()}
                self._update(event.path, done=event.done, total=event.total, values=values)

    def _update(self, path: str, **fields: Any) -> None:
        with self._lock:
            self.version += 1
            self._nodes[path] = {**self._nodes.get(path, {}), **fields, "version": self.version}

    def changes(self, since: int) -> tuple[int, dict[str, dict[str, Any]]]:
        """The version, and the nodes that have changed after version ``since``, by path."""
        with self._lock:
            return self.version, {path: node for path, node in self._nodes.items() if node["version"] > since}

"""Observers of a run for the command line: a log of JSON lines, a plain log, and bars on a terminal."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from guidegraph.graph import events
from guidegraph_runtime.machine.memory import show_size
from guidegraph_runtime.printing import visible_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

Write = Callable[[str], None]


def encode_event(event: events.Event) -> dict[str, Any]:
    """An event as JSON: its name in snake case under ``event``, then its fields."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(event).__name__).lower()
    fields = {"event": name, **vars(event)}
    if isinstance(event, events.LoopProgress):
        fields["values"] = {k: v if math.isfinite(v) else str(v) for k, v in event.values.items()}
    return fields


class JsonLog:
    """Writes one line of JSON per event. ``files`` returns the files of an output that is ready."""

    def __init__(self, write: Write, files: Callable[[str], Sequence[str]]):
        self._write, self._files = write, files

    def __call__(self, event: events.Event) -> None:
        fields = encode_event(event)
        if isinstance(event, events.OutputReady):
            fields["files"] = list(self._files(event.name))
        self._write(json.dumps(fields))


class PlainLog:
    """Writes a line for each finished node, if ``nodes``, and one for each loop every ``every`` seconds."""

    def __init__(self, write: Write, every: float = 10.0, *, nodes: bool = True):
        self._write, self._every, self._nodes = write, every, nodes
        self._last: dict[str, float] = {}

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.NodeStarted(path, node) if node == "loop":
                self._last[path] = time.monotonic()
            case events.NodeFinished(path, node, seconds, origin) if self._nodes:
                time_or_origin = f"from the {origin} cache"
                if origin in ("computed", "verified"):
                    time_or_origin = f"{seconds:.2f} s" + ", as in the cache" * (origin == "verified")
                self._write(f"{path} ({node}): {time_or_origin}")
            case events.ModelMoved(path, output, model, device, size, seconds) if self._nodes:
                name = f"{path}.{output}" if output else path
                self._write(f"{name} ({model}): {show_size(size)} to {device}, {seconds:.2f} s")
            case events.PreviewReady(path, name, step):
                self._write(f"{path}: preview '{name}' after {step} steps")
            case events.TrainingStarted():
                self._write(training_line(event))
            case events.PartAccelerated(state="exporting" | "exported"):
                self._write(acceleration_line(event))
            case events.LoopProgress(path, done, total, values):
                now = time.monotonic()
                if now - self._last.setdefault(path, now) >= self._every:
                    self._last[path] = now
                    self._write(f"{path}: {done}/{total}{_numbers(values)}")
            case _:
                pass


class Bars(AbstractContextManager["Bars"]):
    """Nested progress bars: the nodes of the run, and below them each running loop with its losses."""

    def __init__(self, console: Console):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
        )
        self._nodes: TaskID | None = None
        self._loops: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.RunStarted(workflow, total):
                self._nodes = self._progress.add_task(visible_line(workflow), total=total, note="")
            case events.NodeStarted(path, node) if self._nodes is not None:
                name = path.removeprefix("nodes.")
                note = visible_line(name if node == "loop" else f"{name} ({node})")
                self._progress.update(self._nodes, note=note)
                if node == "loop":
                    self._advance(path, 0, None, "")
            case events.TrainingStarted():
                self._progress.console.print(visible_line(training_line(event)), markup=False, highlight=False)
            case events.PartAccelerated(state="exporting" | "exported"):
                self._progress.console.print(visible_line(acceleration_line(event)), markup=False, highlight=False)
            case events.LoopProgress(path, done, total, values):
                self._advance(path, done, total, _numbers(values))
            case events.NodeFinished(path) if self._nodes is not None:
                self._progress.update(self._nodes, advance=1)
                for inner in [p for p in self._loops if p == path or p.startswith(f"{path}.")]:
                    self._progress.remove_task(self._loops.pop(inner))
            case _:
                pass

    def _advance(self, path: str, done: int, total: int | None, note: str) -> None:
        if path not in self._loops:
            name = "  " * (1 + path.count(".body.")) + path.rpartition(".")[2]
            self._loops[path] = self._progress.add_task(visible_line(name), total=total, note=visible_line(note))
        self._progress.update(self._loops[path], completed=done, total=total, note=visible_line(note))


def training_line(event: events.TrainingStarted) -> str:
    """One line with the precision and the first step of a training."""
    reason = " (auto)" if event.asked == "auto" else ""
    return f"{event.path}: training in {event.precision}{reason}, from step {event.step}"


def acceleration_line(event: events.PartAccelerated) -> str:
    """One line about a part that is being exported for another program, or has been."""
    names = event.paths[0] if len(event.paths) == 1 else f"{event.paths[0]} and {len(event.paths) - 1} more"
    if event.state == "exporting":
        return f"{names}: exporting to {event.backend}; later runs use what is made now"
    return f"{names}: exported to {event.backend} in {event.seconds:.0f} s"


def _numbers(values: Any) -> str:
    return "".join(f"  {name}={value:.4g}" for name, value in values.items())

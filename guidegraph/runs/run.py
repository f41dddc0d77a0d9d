"""A run into a folder: its outputs, written as they become ready, and ``run.json``.

``run.json`` also lists the files that nodes write outside of the folder, from Python's audit events. Only files that
Python opens are seen, in the threads of the run. Libraries in other languages, such as safetensors, and other processes
go unnoticed.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph import events
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Cancelled
from guidegraph.graph.ir import Graph, walk_calls
from guidegraph.graph.node import Registry
from guidegraph.graph.planning.plan import find_needed_ops
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.stopping.loop_state import LoopStopped, StopToken
from guidegraph.graph.trust.effects import list_effects
from guidegraph.graph.trust.policy import drop_dots, is_shipped
from guidegraph.runs.outputs import OutputWriter
from guidegraph.runs.recipe import Recipe, find_seeds, portable_params, recipe_params
from guidegraph.runs.stopped_run import StoppedRun, make_stopped_run, strip_folders
from guidegraph_runtime.run_json import RunJson, with_machine

if TYPE_CHECKING:
    from guidegraph.graph.execution.cache import MemoryCache


class RecordedRun(RunJson):
    """One run of a validated graph with checked values into an existing folder; ``writer`` lists its files.

    earlier: the stopped run that it goes on from, checked by ``check_stopped_run``. stopped: the run as it was stopped,
    with its file in the folder.
    """

    def __init__(
        self,
        graph: Graph,
        registry: Registry,
        values: Mapping[str, Any],
        config: RunConfig,
        folder: Path,
        earlier: StoppedRun | None = None,
    ):
        folder = folder.absolute()  # a node may change the current directory
        if config.policy.out is None:
            config = replace(config, policy=replace(config.policy, out=folder))
        self.graph, self.values, self.config, self.folder = graph, values, config, folder
        self.earlier = earlier
        self.stopped: StoppedRun | None = None
        self._segments = earlier.list_segments(graph, values, config.only) if earlier else []
        self._recipe = recipe = Recipe(
            graph.file,
            dict(graph.sources),
            recipe_params(values),
            None if config.only is None else [*config.only],
            config.dtype,
            seeds=find_seeds(graph, values),
            versions=collect_versions(registry, config.accelerate),
            resumed={**earlier.describe(), "segments": strip_folders(self._segments, graph)}
            if earlier and self._segments
            else None,
        )
        self.writer = OutputWriter(
            graph, registry, folder, lambda name, i, batch: replace(recipe, output=name, index=i, batch=batch).text()
        )
        self._finished: dict[str, events.NodeFinished] = {}
        self._totals: dict[str, events.NodeTotals] = {}
        self._moves: list[events.ModelMoved] = []
        self._trainings: dict[str, events.TrainingStarted] = {}
        self._written_outside: list[str] = []
        super().__init__()  # the run begins now

    def run(
        self,
        observers: Sequence[events.Observer],
        cancel: CancelToken,
        memory: MemoryCache | None = None,
        stop: StopToken | None = None,
    ) -> None:
        """Raises the errors of ``graph.execution.run`` and of the writer; ``run.json`` has the status in every case.

        If the run is stopped, the file to go on from is written before ``LoopStopped`` leaves.
        """
        from guidegraph.graph.execution.run import Attachments, run

        attachments = Attachments(
            memory,
            [self.observe, *observers],
            cancel,
            self.writer,
            self.writer.preview,
            stop=stop or StopToken(),
            resume=self.earlier.state if self.earlier else None,
        )
        own_folders = [self.folder, *([self.config.cache] if self.config.cache else [])]
        with self.keep(self.folder), record_outside_writes(own_folders, self._written_outside):
            try:
                run(self.graph, self.values, self.config, attachments)
            except LoopStopped as error:
                stopped = make_stopped_run(self.graph, self.values, self.config, error.state, self.earlier)
                file = self.folder / stopped.name_file()
                stopped.save(file)
                self.stopped = replace(stopped, file=str(file))
                raise
            self.writer.raise_failures()

    def observe(self, event: events.Event) -> None:
        """Keep what ``run.json`` has of an event."""
        match event:
            case events.NodeFinished():
                self._finished[event.path] = event
            case events.NodeTotals():
                self._totals[event.path] = event
            case events.ModelMoved():
                self._moves.append(event)
            case events.TrainingStarted():
                self._trainings[event.path] = event

    def content(self) -> dict[str, Any]:
        """The fields of ``run.json`` after its status."""
        graph, nodes, files, earlier = self.graph, self._finished, self.writer.files, self.earlier
        specs = {call.spec.id: call.spec for call in walk_calls(graph.ops)}
        return {
            "workflow": describe_workflow(graph),
            "parameters": portable_params(self.values),
            "seeds": self._recipe.seeds,
            **self.config.to_json(),
            "outputs": {
                name: {"type": str(output.type), "files": files[name]}
                for name, output in graph.outputs.items()
                if name in files
            },
            "previews": dict(self.writer.previews),
            "resumed": {**earlier.describe(), "segments": self._segments} if earlier else None,
            "stopped": self.stopped.describe() if self.stopped else None,
            "outside": [  # what the run reads, writes or loads code from, except shipped files and its outputs
                {"does": effect.kind, "path": str(drop_dots(effect.path)) if effect.path else None, "node": effect.node}
                for effect in list_effects(find_needed_ops(graph, self.config.only, self.values), self.values)
                if effect.path is None or not is_shipped(effect.path)
            ],
            "written_outside": self._written_outside,
            "started": self.started,
            "seconds": self.seconds(),
            "nodes": {path: event.node for path, event in nodes.items()},
            "node_versions": {
                id: {"version": spec.version, "distribution": spec.distribution} for id, spec in sorted(specs.items())
            },
            "digests": {path: event.digest for path, event in nodes.items()},
            "timings": {path: round(event.seconds, 6) for path, event in nodes.items()},
            "loop_timings": {
                path: {"node": event.node, "calls": event.calls, "seconds": round(event.seconds, 6)}
                for path, event in self._totals.items()
            },
            "origins": {path: event.origin for path, event in nodes.items()},
            "moves": [{**vars(move), "seconds": round(move.seconds, 6)} for move in self._moves],
            "trainings": {
                path: {"precision": event.precision, "asked": event.asked, "from_step": event.step}
                for path, event in self._trainings.items()
            },
            "versions": self._recipe.versions,
        }

    def status_of(self, error: BaseException) -> str:
        """The status of a run that an error ended."""
        return error.status if isinstance(error, Cancelled) else super().status_of(error)


def describe_workflow(graph: Graph) -> dict[str, Any]:
    """The workflow's file, name and text, and the texts of all files that it uses."""
    return {
        "file": str(graph.file),
        "name": graph.name,
        "text": graph.sources.get(str(graph.file)),
        "sources": dict(graph.sources),
    }


def collect_versions(registry: Registry, accelerate: str = "") -> dict[str, str]:
    """The versions of everything that a result may depend on. accelerate: the accelerator of the run."""
    packages = dict(registry.versions)
    for name in ("torch", "numpy", "safetensors", "pillow"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if accelerate == "onnx":
        import onnxruntime  # installed under several names

        packages["onnxruntime"] = str(onnxruntime.__version__)
    return with_machine(packages)


WRITING = os.O_WRONLY | os.O_RDWR | os.O_APPEND
MOST = 100
"""How many files are recorded."""

_recorded: ContextVar[dict[str, None] | None] = ContextVar("guidegraph_outside_writes", default=None)


@contextmanager
def record_outside_writes(allowed: Sequence[Path], listed: list[str]) -> Iterator[None]:
    """Append the files that the block writes, and that still exist when it ends, to a list.

    allowed: folders that do not count, besides the user's caches, compiled code and devices.
    """
    _install_hook()
    written: dict[str, None] = {}
    token = _recorded.set(written)
    try:
        yield
    finally:
        _recorded.reset(token)
        caches = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # there may be no home
        ignored = [*map(os.path.realpath, (*allowed, caches)), "/dev", "/proc"]
        kept = []
        for path in filter(os.path.lexists, written):
            real = Path(os.path.realpath(path))
            is_compiled = any(part == "__pycache__" or part.startswith("torchinductor_") for part in real.parts)
            if not is_compiled and not any(real.is_relative_to(folder) for folder in ignored):
                kept.append(path)
        listed += kept[:MOST]


@cache
def _install_hook() -> None:
    """Install the hook, which cannot be removed; it does nothing outside of runs."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("open", "os.rename", "os.link", "os.symlink"):
        return
    written = _recorded.get()
    if written is None:
        return
    if event == "open":
        path, mode, flags = arguments
        if not (any(letter in mode for letter in "wax+") if mode else flags & WRITING):
            return
    else:
        path = arguments[1]
    if isinstance(path, (str, bytes, os.PathLike)) and len(written) < 100 * MOST:
        with suppress(OSError, ValueError):  # the current folder was removed
            written[os.path.abspath(os.fsdecode(path))] = None

"""``run.json``: the workflow, parameters, machine, timings and files of a run."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from guidegraph.graph import events
from guidegraph.graph.ir import Call, Graph, walk
from guidegraph.graph.planning.plan import find_needed_ops
from guidegraph.graph.registry import Registry
from guidegraph.graph.trust.effects import list_effects
from guidegraph.graph.trust.policy import drop_dots, is_shipped
from guidegraph.runs.outputs import RECORD
from guidegraph.runs.recipe import find_seeds, portable_params
from guidegraph_runtime.files.atomic_write import write_text

FORMAT = 1


@dataclass
class RunRecord:
    """An observer that collects a run's record. files: those of each output, by name. options: of the run.

    previews: the files of training previews, by LOOP/NAME.
    """

    graph: Graph
    values: Mapping[str, Any]
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    files: Mapping[str, list[str]]
    previews: Mapping[str, list[str]] = field(default_factory=dict)
    started: str = field(default_factory=lambda: datetime.now().astimezone().isoformat(timespec="seconds"))
    finished: dict[str, events.NodeFinished] = field(default_factory=dict)
    totals: dict[str, events.NodeTotals] = field(default_factory=dict)
    moves: list[events.ModelMoved] = field(default_factory=list)
    trainings: dict[str, events.TrainingStarted] = field(default_factory=dict)
    _clock: float = field(default_factory=time.perf_counter)

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.NodeFinished):
            self.finished[event.path] = event
        elif isinstance(event, events.NodeTotals):
            self.totals[event.path] = event
        elif isinstance(event, events.ModelMoved):
            self.moves.append(event)
        elif isinstance(event, events.TrainingStarted):
            self.trainings[event.path] = event

    def list_outside_files(self) -> list[dict[str, str | None]]:
        """The files that the run reads, writes or loads code from, except shipped ones and its outputs."""
        effects = list_effects(find_needed_ops(self.graph, self.options.get("only"), self.values), self.values)
        return [
            {"does": effect.kind, "path": str(drop_dots(effect.path)) if effect.path else None, "node": effect.node}
            for effect in effects
            if effect.path is None or not is_shipped(effect.path)
        ]

    def write(self, folder: Path, status: str, error: str | None = None) -> None:
        """Write the record in its current state."""
        graph = self.graph
        nodes = self.finished
        record = {
            "format": FORMAT,
            "status": status,
            "error": error,
            "workflow": {
                "file": str(graph.file),
                "name": graph.name,
                "text": graph.sources.get(str(graph.file)),
                "sources": dict(graph.sources),
            },
            "parameters": portable_params(self.values),
            "seeds": find_seeds(graph, self.values),
            **self.options,
            "outputs": {
                name: {"type": str(output.type), "files": self.files[name]}
                for name, output in graph.outputs.items()
                if name in self.files
            },
            "previews": dict(self.previews),
            "outside": self.list_outside_files(),
            "started": self.started,
            "seconds": round(time.perf_counter() - self._clock, 6),
            "nodes": {path: event.node for path, event in nodes.items()},
            "node_versions": node_versions(graph),
            "digests": {path: event.digest for path, event in nodes.items()},
            "timings": {path: round(event.seconds, 6) for path, event in nodes.items()},
            "loop_timings": {
                path: {"node": event.node, "calls": event.calls, "seconds": round(event.seconds, 6)}
                for path, event in self.totals.items()
            },
            "origins": {path: event.origin for path, event in nodes.items()},
            "moves": [{**vars(move), "seconds": round(move.seconds, 6)} for move in self.moves],
            "trainings": {
                path: {"precision": event.precision, "asked": event.asked, "from_step": event.step}
                for path, event in self.trainings.items()
            },
            "versions": dict(self.versions),
        }
        write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def node_versions(graph: Graph) -> dict[str, dict[str, str]]:
    """The version and distribution of each node of a workflow, loop bodies included, by id."""
    specs = {op.spec.id: op.spec for op in walk(graph.ops) if isinstance(op, Call)}
    return {id: {"version": spec.version, "distribution": spec.distribution} for id, spec in sorted(specs.items())}


def collect_versions(registry: Registry) -> dict[str, str]:
    """The versions of everything that a result may depend on."""
    packages = dict(registry.versions)
    for name in ("torch", "numpy", "safetensors", "pillow"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    packages["python"] = platform.python_version()
    packages["platform"] = platform.platform()
    packages["machine"] = platform.machine()
    return packages

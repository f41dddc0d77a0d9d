"""``run.json``: the workflow, parameters, machine, timings and files of a run."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guidegraph.graph import events
from guidegraph.graph.errors import Cancelled
from guidegraph.graph.ir import Graph, walk_calls
from guidegraph.graph.node import Registry
from guidegraph.graph.planning.plan import find_needed_ops
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.trust.effects import list_effects
from guidegraph.graph.trust.policy import drop_dots, is_shipped
from guidegraph.runs.outputs import OutputWriter
from guidegraph.runs.recipe import Recipe, portable_params
from guidegraph_runtime.run_json import RunJson, with_machine


@dataclass
class RunRecord(RunJson):
    """An observer that collects a run's record. writer: lists the files of outputs and previews.

    resumed: the stopped run that it goes on from. stopped: where it was stopped itself. written_outside: files that
    nodes wrote outside of the run's folder.
    """

    graph: Graph
    values: Mapping[str, Any]
    config: RunConfig
    recipe: Recipe
    writer: OutputWriter
    finished: dict[str, events.NodeFinished] = field(default_factory=dict)
    totals: dict[str, events.NodeTotals] = field(default_factory=dict)
    moves: list[events.ModelMoved] = field(default_factory=list)
    trainings: dict[str, events.TrainingStarted] = field(default_factory=dict)
    resumed: dict[str, Any] | None = None
    stopped: dict[str, Any] | None = None
    written_outside: list[str] = field(default_factory=list)

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
        effects = list_effects(find_needed_ops(self.graph, self.config.only, self.values), self.values)
        return [
            {"does": effect.kind, "path": str(drop_dots(effect.path)) if effect.path else None, "node": effect.node}
            for effect in effects
            if effect.path is None or not is_shipped(effect.path)
        ]

    def content(self) -> dict[str, Any]:
        """The fields of ``run.json`` after its status."""
        graph, nodes, files = self.graph, self.finished, self.writer.files
        return {
            "workflow": describe_workflow(graph),
            "parameters": portable_params(self.values),
            "seeds": self.recipe.seeds,
            **self.config.to_json(),
            "outputs": {
                name: {"type": str(output.type), "files": files[name]}
                for name, output in graph.outputs.items()
                if name in files
            },
            "previews": dict(self.writer.previews),
            "resumed": self.resumed,
            "stopped": self.stopped,
            "outside": self.list_outside_files(),
            "written_outside": self.written_outside,
            "started": self.started,
            "seconds": self.seconds(),
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
            "versions": self.recipe.versions,
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


def node_versions(graph: Graph) -> dict[str, dict[str, str]]:
    """The version and distribution of each node of a workflow, loop bodies included, by id."""
    specs = {call.spec.id: call.spec for call in walk_calls(graph.ops)}
    return {id: {"version": spec.version, "distribution": spec.distribution} for id, spec in sorted(specs.items())}


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

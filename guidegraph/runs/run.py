"""A run into a folder: its outputs, written as they become ready, and ``run.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Observer
from guidegraph.graph.ir import Graph
from guidegraph.graph.registry import Registry
from guidegraph.graph.run_config import RunConfig
from guidegraph.runs.outputs import OutputWriter
from guidegraph.runs.recipe import Recipe, find_seeds, recipe_params
from guidegraph.runs.record import RunRecord, collect_versions

if TYPE_CHECKING:
    from guidegraph.graph.execution.cache import MemoryCache


class RecordedRun:
    """One run of a validated graph with checked values into an existing folder; ``writer`` lists its files."""

    def __init__(self, graph: Graph, registry: Registry, values: Mapping[str, Any], config: RunConfig, folder: Path):
        folder = folder.absolute()  # a node may change the current directory
        if config.policy.out is None:
            config = replace(config, policy=replace(config.policy, out=folder))
        self.graph, self.values, self.config, self.folder = graph, values, config, folder
        recipe = Recipe(
            graph.file,
            dict(graph.sources),
            recipe_params(values),
            None if config.only is None else [*config.only],
            config.dtype,
            seeds=find_seeds(graph, values),
            versions=collect_versions(registry, config.accelerate),
        )
        self.writer = OutputWriter(
            graph, registry, folder, lambda name, i, batch: replace(recipe, output=name, index=i, batch=batch).text()
        )
        self._record = RunRecord(graph, values, config, recipe, self.writer)

    def run(self, observers: Sequence[Observer], cancel: CancelToken, memory: MemoryCache | None = None) -> None:
        """Raises the errors of ``graph.execution.run`` and of the writer; the record has the status in every case."""
        from guidegraph.graph.execution.run import Attachments, run

        attachments = Attachments(memory, [self._record, *observers], cancel, self.writer, self.writer.preview)
        with self._record.keep(self.folder):
            run(self.graph, self.values, self.config, attachments)

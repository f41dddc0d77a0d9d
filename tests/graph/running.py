"""Runs a graph with the fields of ``RunConfig`` and ``Attachments`` as keywords."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from guidegraph.graph.execution.run import Attachments, RunConfig, RunResult, run
from guidegraph.graph.ir import Graph


def run_graph(graph: Graph, values: Mapping[str, Any] | None = None, **options: Any) -> RunResult:
    settings = {field.name for field in fields(RunConfig)}
    config = RunConfig(**{name: value for name, value in options.items() if name in settings})
    attachments = Attachments(**{name: value for name, value in options.items() if name not in settings})
    return run(graph, values or {}, config, attachments)

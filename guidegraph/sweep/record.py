"""``sweep.json``: the grid, workflow, versions and machine of a sweep."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.ir import Graph
from guidegraph.graph.registry import Registry
from guidegraph.graph.run_config import RunConfig
from guidegraph.runs.recipe import portable_params, portable_value
from guidegraph.runs.record import collect_versions, describe_workflow
from guidegraph.sweep.grid import Axis, Grid
from guidegraph.sweep.sweep_folder import Store

FORMAT = 1


def describe_sweep(
    graph: Graph,
    registry: Registry,
    config: RunConfig,
    grid: Grid,
    cells: int,
    settings: Mapping[str, str],
    execution: Mapping[str, Any],
) -> dict[str, Any]:
    """The description of a sweep.

    cells: the number of distinct cells. execution: the fields on how it is run, such as plugins, Ray and workers.
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "")
    except OSError:
        processor = platform.processor()
    table = next((axis for axis in grid.axes if axis.option == "--from"), None)
    axes = {option: [a for a in grid.axes if a.option == option] for option in ("--grid", "--seeds")}
    return {
        "format": FORMAT,
        "workflow": describe_workflow(graph),
        "grid": {axis.names[0]: _values(axis) for axis in axes["--grid"]},
        "seeds": next((_values(axis) for axis in axes["--seeds"]), None),
        "from": None
        if table is None
        else {"columns": [*table.names], "rows": [[*map(portable_value, row)] for row in table.rows]},
        "order": list(grid.names),
        "cells": cells,
        "set": {name: portable_value(grid.base[name]) for name in settings if name in grid.base},
        "parameters": portable_params(grid.base),
        **config.to_json(),
        **execution,
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "machine": {"system": platform.platform(), "processor": processor, "cpus": os.cpu_count()},
        "versions": collect_versions(registry, config.accelerate),
    }


def _values(axis: Axis) -> list[Any]:
    return [portable_value(value) for (value,) in axis.rows]


def check_same_workflow(store: Store, graph: Graph) -> None:
    """Raise ``WorkflowError`` if the folder has a sweep of another workflow: neither the file nor the text agrees."""
    if (existing := store.read_description()) is None:
        return
    workflow = existing["workflow"]
    if workflow.get("file") == str(graph.file) or workflow.get("text") == graph.sources.get(str(graph.file)):
        return
    message = f"'{store.folder}' holds a sweep of {workflow.get('file')}: give another folder"
    raise WorkflowError([Problem(Mark("--out", 1, 1), "another-sweep", message)])

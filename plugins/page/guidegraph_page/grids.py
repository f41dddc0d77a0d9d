"""Grids of pictures: a sweep over one or two parameters, run by the queue and read back from its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.plugins.entry_points import PluginSelection
from guidegraph.plugins.manager import PluginManager
from guidegraph.session import Session
from guidegraph_lab.sweep.grid import make_grid
from guidegraph_lab.sweep.grid_options import SEED, AxisTexts, parse_grid, parse_seeds
from guidegraph_lab.sweep.run import Sweep, run_sweep
from guidegraph_lab.sweep.sweep_folder import CELLS, SWEEP
from guidegraph_page.gallery import as_dict, as_list, describe_run, is_folder_name
from guidegraph_runtime.files.regular_files import read_json
from guidegraph_runtime.run_json import RECORD, read_record

MAX_CELLS = 100
MAX_READ = 400
"""A sweep of the command line may have more cells than one of the page."""
MAX_LISTED = 100
MAX_AXES = 2
LABEL = "grid"


def make_sweep(session: Session, texts: Mapping[str, str], axes: Mapping[str, str]) -> Sweep:
    """The sweep over the values of one or two parameters, as ``--grid`` or ``--seeds`` take them.

    texts: of the other parameters. Raises ``WorkflowError`` that lists all problems.
    """
    problems: list[Problem] = []
    if not 1 <= len(axes) <= MAX_AXES:
        problems.append(_problem(f"a grid has one or two parameters; found {len(axes)}"))
    axis_texts: list[AxisTexts] = []
    for name, values in axes.items():
        is_range = name == SEED and ":" in values
        axis = parse_seeds(values, problems) if is_range else parse_grid(f"{name}={values}", problems)
        axis_texts += [axis] if axis is not None else []
    settings = {name: text for name, text in texts.items() if name not in axes}
    count = math.prod(len(axis.rows) for axis in axis_texts)
    if count > MAX_CELLS:
        message = f"the grid has {count} cells, and the page makes at most {MAX_CELLS}: 'guidegraph sweep' makes more"
        raise WorkflowError([*problems, _problem(message)])
    grid = make_grid(session.graph, settings, axis_texts, problems)
    return Sweep(session, grid, settings, PluginSelection(), None)


def _problem(message: str) -> Problem:
    return Problem(Mark(LABEL, 1, 1), "bad-grid", message)


def run_grid(
    sweep: Sweep, folder: Path, manager: PluginManager, cancel: CancelToken, report: Callable[[int, int], None]
) -> None:
    """Run all cells. report: called with the number of cells that have ended and of all. Raises ``Cancelled``."""
    total = len(sweep.grid)
    run_sweep(
        sweep,
        folder,
        manager,
        cancel,
        lambda cells, missing: report(0, total),
        lambda cell, outcome, remaining: report(total - remaining, total),
        lambda message: None,
    )


def read_grid(runs: Path, folder: str) -> dict[str, Any] | None:
    """A grid as JSON: its axes, and the cells that have ended, each with its indices; ``None`` if there is none."""
    description = _read_description(runs, folder)
    axes = _read_axes(description or {})
    if description is None or axes is None:
        return None
    cells = []
    for path in sorted((runs / folder / CELLS).glob("[!.]*"))[:MAX_READ]:
        record = read_record(path / RECORD)
        if record is None:
            continue
        with suppress(ValueError, TypeError, RecursionError):  # of a record that another program wrote
            if (point := _find_point(axes, as_dict(record.get("parameters")))) is not None:
                cells.append({**describe_run(path, record), "folder": f"{folder}/{CELLS}/{path.name}", "point": point})
    labels = [
        {"name": name, "values": [value if isinstance(value, str) else json.dumps(value) for value in row]}
        for name, row in axes.items()
    ]
    workflow = as_dict(description.get("workflow"))
    return {"folder": folder, "axes": labels, "cells": cells, "file": str(workflow.get("file", ""))}


def list_grids(runs: Path) -> list[dict[str, Any]]:
    """The folders of sweeps, newest first, that ``read_grid`` can read."""
    paths = sorted(runs.glob(f"*/{SWEEP}"), reverse=True) if runs.is_dir() else []
    folders = [path.parent.name for path in paths[:MAX_LISTED]]
    return [{"folder": name} for name in folders if _read_axes(_read_description(runs, name) or {}) is not None]


def _read_axes(description: Mapping[str, Any]) -> dict[str, list[Any]] | None:
    """The values of each parameter of a grid; ``None`` for a sweep that is none, or is too large for the page."""
    seeds = {} if description.get("seeds") is None else {SEED: description["seeds"]}
    values = {**as_dict(description.get("grid")), **seeds}
    order = [name for name in as_list(description.get("order")) if isinstance(name, str)]
    axes = {name: values[name] for name in order if isinstance(values.get(name), list)}
    is_grid = 1 <= len(axes) <= MAX_AXES and 1 <= math.prod(map(len, axes.values())) <= MAX_READ
    return axes if is_grid else None


def _read_description(runs: Path, folder: str) -> dict[str, Any] | None:
    if not is_folder_name(folder):
        return None
    try:
        description = read_json(runs / folder / SWEEP)
    except (OSError, ValueError):
        return None
    return description if isinstance(description, dict) else None


def _find_point(axes: Mapping[str, list[Any]], params: Mapping[str, Any]) -> list[int] | None:
    """The index on each axis of a run with these parameters; ``None`` for one that is not in the grid."""
    point = []
    for name, row in axes.items():
        indices = [i for i, value in enumerate(row) if name in params and json.dumps(value) == json.dumps(params[name])]
        if not indices:
            return None
        point.append(indices[0])
    return point

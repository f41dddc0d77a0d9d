"""The arguments of ``sweep``, its folder and its progress."""

from __future__ import annotations

import json as jsonlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.open_workflow import WorkflowRequest, name_picture, parse_settings
from guidegraph.commands.shared.printing import output_stream, print_json, print_note, print_text
from guidegraph.commands.shared.run_settings import RunSettings, apply_limits
from guidegraph.commands.shared.supervised import cancel_on_signals
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.language.named_workflows import locate_workflow
from guidegraph.runs.recipe import apply_recipe, portable_params
from guidegraph.session import Session, list_folder_problems, make_folder
from guidegraph_lab.sweep.grid import make_grid
from guidegraph_lab.sweep.grid_options import SAMPLER, add_sampler_parameter, parse_grid, parse_seeds, parse_table
from guidegraph_lab.sweep.ray_cluster import LOCAL, Cluster, is_ray_installed
from guidegraph_lab.sweep.run import Sweep, run_sweep
from guidegraph_lab.sweep.table import TABLE
from guidegraph_runtime.files.run_folders import RUNS, list_missing_folders, remove_empty_folders
from guidegraph_runtime.machine.optional_packages import install_command
from guidegraph_runtime.printing import show_count

if TYPE_CHECKING:
    from guidegraph.graph.node import Registry
    from guidegraph.graph.run_config import RunConfig
    from guidegraph_lab.sweep.cells import Cell
    from guidegraph_lab.sweep.grid_options import AxisTexts
    from guidegraph_lab.sweep.run import Summary
    from guidegraph_lab.sweep.worker import Outcome

_EVERY = 10.0
"""Seconds between two progress lines."""


@dataclass(frozen=True)
class SweepArguments:
    """The arguments of ``sweep``, not yet checked."""

    request: WorkflowRequest
    run: RunSettings
    grid: Sequence[str]
    seeds: Sequence[str]
    tables: Sequence[Path]
    out: Path | None
    ray: str | None
    workers: int | None


def sweep_by_arguments(arguments: SweepArguments, limits: Sequence[str], json: bool) -> Summary:
    """Check the arguments of the command, run the sweep and show its progress, as JSON lines if ``json``.

    Raises ``WorkflowError`` that lists all problems of the arguments.
    """
    token = CancelToken()
    with apply_limits(limits), name_picture(arguments.request.workflow), cancel_on_signals(token, print_note):
        manager = arguments.request.load_plugins()
        sweep = _check_arguments(arguments, manager.registry)
        token.check()
        with _make_folder(arguments.out, f"{sweep.session.graph.name}-sweep") as folder:
            progress = _Progress(folder, json)
            summary = run_sweep(sweep, folder, manager, token, progress.on_start, progress.on_cell, print_note)
        progress.on_end(summary)
    return summary


@contextmanager
def _make_folder(out: Path | None, name: str) -> Iterator[Path]:
    """Make the folder of a sweep. New folders that are empty at the end, as after an early error, are removed."""
    new_folders = list_missing_folders(out or RUNS)
    folder = make_folder(out, name)
    try:
        yield folder
    finally:
        remove_empty_folders(new_folders if out is not None else [folder, *new_folders])


def _check_arguments(arguments: SweepArguments, registry: Registry) -> Sweep:
    """Check everything before the sweep. Raises ``WorkflowError`` that lists all problems."""
    problems: list[Problem] = []
    config = _parse_config(arguments, problems)
    axes = _axes(arguments, registry, problems)
    request = arguments.request
    settings = parse_settings(request.settings, problems)
    opened = request.open(problems)
    try:
        graph = opened.graph
        if SAMPLER not in graph.params and any(SAMPLER in texts.names for texts in axes):
            graph = add_sampler_parameter(graph, registry, stranger=opened.recipe is not None)
        graph = apply_recipe(graph, opened.recipe)
    except WorkflowError as error:
        raise WorkflowError([*problems, *error.problems]) from None
    config = opened.complete(
        config, arguments.run["dtype"], arguments.out, (name for texts in axes for name in texts.names)
    )
    session = Session(graph, config, registry, recipe=opened.recipe, picture=request.workflow)
    problems += session.list_output_problems("--only")
    grid = make_grid(graph, settings, axes, problems)
    # Workers have another current folder.
    modules = tuple(str(Path(p).absolute()) if p.endswith(".py") else p for p in request.plugins.modules)
    cluster = Cluster(arguments.ray, arguments.workers) if arguments.ray else None
    return Sweep(session, grid, settings, replace(request.plugins, modules=modules), cluster)


def _parse_config(arguments: SweepArguments, problems: list[Problem]) -> RunConfig:
    device, remote = arguments.run["device"], arguments.ray not in (None, LOCAL)
    # The devices of a cluster are not those of this machine; Ray gives each worker its own.
    config = arguments.run.parse(problems, device_is_here=not (remote and device == "cuda"))
    if arguments.ray is not None and device.startswith("cuda:"):
        message = f"with --ray it is 'cuda', and Ray gives each worker a device; found '{device}'"
        problems.append(argument_problem("no-device", message, "--device"))
    if arguments.ray is not None and not is_ray_installed():
        message = f"--ray needs ray, which is not installed; {install_command('ray', 'guidegraph-lab')}"
        problems.append(argument_problem("missing-extra", message, "--ray"))
    if arguments.workers is not None and (arguments.ray is None or arguments.workers < 1):
        message = "it is how many cells run at once on Ray: at least 1, with --ray local or --ray ADDRESS"
        problems.append(argument_problem("bad-workers", message, "--workers"))
    problems += list_folder_problems({"--out": arguments.out or RUNS})
    return config


def _axes(arguments: SweepArguments, registry: Registry, problems: list[Problem]) -> list[AxisTexts]:
    """The axes: the rows of the table vary slowest, then the grid in its order, then the seeds."""
    axes: list[AxisTexts | None] = []
    _refuse_repeated("--from", arguments.tables, "put all columns into one file", problems)
    _refuse_repeated("--seeds", arguments.seeds, "write all seeds in one, such as 0:4 or 1,5,9", problems)
    for table in arguments.tables[:1]:
        try:
            axes = [parse_table(locate_workflow(table, registry), problems)]
        except WorkflowError as error:
            problems += error.problems
    axes += [parse_grid(text, problems) for text in arguments.grid]
    axes += [parse_seeds(text, problems) for text in arguments.seeds[:1]]
    return [texts for texts in axes if texts is not None]


def _refuse_repeated(option: str, values: Sequence[object], hint: str, problems: list[Problem]) -> None:
    """Append a problem for an option that is given more than once."""
    if len(values) > 1:
        message = f"it is given {len(values)} times ({', '.join(map(str, values))}): {hint}"
        problems.append(argument_problem("repeated-option", message, option))


class _Progress:
    """Shows a sweep's progress: JSON lines, or counts and failures."""

    def __init__(self, folder: Path, json: bool):
        self._folder, self._json = folder, json
        self._total, self._failed, self._last = 0, 0, time.monotonic()
        self._out = output_stream()  # kept, because it is redirected while Ray is connected

    def on_start(self, cells: int, missing: int) -> None:
        self._total = cells
        self._event("sweep_started", cells=cells, missing=missing, folder=str(self._folder))
        if missing < cells and not self._json:
            done = cells - missing
            print_note(f"{done} of {show_count(cells, 'cell')} {'is' if done == 1 else 'are'} done already")

    def on_cell(self, cell: Cell, outcome: Outcome, remaining: int) -> None:
        swept = portable_params(cell.swept)
        self._event("cell_finished", cell=cell.key, parameters=swept, **vars(outcome))
        if self._json:
            return
        if outcome.status == "failed":
            self._failed += 1
            parameters = ", ".join(f"{name}={jsonlib.dumps(value)}" for name, value in swept.items())
            print_note(f"failed: {parameters}: {outcome.message}")
        now = time.monotonic()
        if remaining and now - self._last >= _EVERY:
            self._last = now
            print_note(f"{self._total - remaining} of {self._total} cells, {self._failed} failed")

    def on_end(self, summary: Summary) -> None:
        self._event("sweep_finished", **vars(summary), folder=str(self._folder))
        if not self._json:
            cells = show_count(summary.cells, "cell")
            counts = f"{summary.done} done ({summary.before} before), {summary.failed} failed"
            print_text(f"{cells}: {counts}; wrote {self._folder / TABLE}", file=self._out)

    def _event(self, event: str, **fields: object) -> None:
        if self._json:
            print_json(jsonlib.dumps({"event": event, **fields}), file=self._out)

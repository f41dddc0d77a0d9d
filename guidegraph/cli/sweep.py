"""``sweep``: a workflow for each cell of a grid, into one folder."""

from __future__ import annotations

import json as jsonlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from guidegraph.cli.cancel import cancelled_by_signals
from guidegraph.cli.errors import FAILED, argument_problem, print_json, print_text, say
from guidegraph.cli.options import Chosen
from guidegraph.cli.plugins import required_plugins
from guidegraph.cli.run import made_folder
from guidegraph.cli.source import given_names, open_workflow, place_problems, setting_texts, with_recipe
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.events import CancelToken
from guidegraph.graph.named import named_workflow
from guidegraph.graph.registry import Registry
from guidegraph.graph.trust.policy import Grants
from guidegraph.outputs import output_problems
from guidegraph.recorded import Job
from guidegraph.rerun import portable_params
from guidegraph.sweep.cells import Cell
from guidegraph.sweep.grid import make_grid
from guidegraph.sweep.ray_workers import LOCAL, Cluster
from guidegraph.sweep.run import Summary, Sweep, run_sweep
from guidegraph.sweep.table import TABLE
from guidegraph.sweep.texts import Texts, grid_texts, seed_texts, table_texts
from guidegraph.sweep.worker import Outcome

_EVERY = 10.0
"""Seconds between two lines that say how far it is."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of ``sweep``, as they were given."""

    workflow: Path
    grid: Sequence[str]
    seeds: str | None
    table: Path | None
    settings: Sequence[str]
    out: Path | None
    ray: str | None
    workers: int | None
    device: str
    dtype: str | None
    json: bool
    plugins: Chosen
    grants: Grants


def sweep_command(given: Arguments) -> None:
    token = CancelToken()
    with cancelled_by_signals(token, say):
        manager = required_plugins(given.plugins)
        sweep = _checked(given, manager.registry)
        token.check()
        name = sweep.job.graph.name
        folder = made_folder(given.out, f"{name}-sweep")
        shown = _Shown(folder, given.json)
        summary = run_sweep(sweep, folder, manager, token, shown.started, shown.finished, say)
        shown.ended(summary)
    if summary.failed:
        raise typer.Exit(FAILED)


def _checked(given: Arguments, registry: Registry) -> Sweep:
    """Raises ``WorkflowError`` that lists everything wrong with the workflow, the arguments and the grid."""
    problems = _argument_problems(given)
    axes = _axes(given, registry, problems)
    settings = setting_texts(given.settings, problems)
    try:
        opened = open_workflow(given.workflow, registry)
        graph = with_recipe(opened)
    except WorkflowError as error:
        raise WorkflowError([*problems, *error.problems]) from None
    recipe = opened.recipe
    only = recipe.only if recipe else None
    problems += output_problems(graph, registry, only)
    grid = make_grid(graph, settings, axes, problems)
    dtype = given.dtype or (recipe.dtype if recipe else "float32")
    own = {*given_names(given.settings), *(name for texts in axes for name in texts.names)}
    policy = opened.policy(given.grants, own, given.out)
    job = Job(graph, registry, {}, only, given.device, dtype, policy=policy)
    # A worker has another current folder.
    plugins = tuple(str(Path(p).absolute()) if p.endswith(".py") else p for p in given.plugins.modules)
    cluster = Cluster(given.ray, given.workers) if given.ray else None
    return Sweep(job, grid, settings, plugins, given.plugins.installed, cluster)


def _argument_problems(given: Arguments) -> list[Problem]:
    remote = given.ray not in (None, LOCAL)
    # The devices of a cluster are not those of this machine; Ray gives each worker its own.
    problems = place_problems("cpu" if remote and given.device == "cuda" else given.device, given.dtype)
    if given.ray is not None and given.device.startswith("cuda:"):
        message = f"with --ray it is 'cuda', and Ray gives each worker a device; found '{given.device}'"
        problems.append(argument_problem("no-device", message, "--device"))
    if given.workers is not None and (given.ray is None or given.workers < 1):
        message = "it is how many cells run at once on Ray: at least 1, with --ray local or --ray ADDRESS"
        problems.append(argument_problem("bad-workers", message, "--workers"))
    if given.out is not None and given.out.exists() and not given.out.is_dir():
        problems.append(argument_problem("not-a-folder", f"'{given.out}' is not a folder", "--out"))
    return problems


def _axes(given: Arguments, registry: Registry, problems: list[Problem]) -> list[Texts]:
    """The rows of the table vary slowest, then the grid in the order in which it is given, and the seeds fastest."""
    found: list[Texts | None] = []
    if given.table is not None:
        try:
            found = [table_texts(named_workflow(given.table, registry), problems)]
        except WorkflowError as error:
            problems += error.problems
    found += [grid_texts(text, problems) for text in given.grid]
    found += [seed_texts(given.seeds, problems)] if given.seeds is not None else []
    return [texts for texts in found if texts is not None]


class _Shown:
    """What is shown of a sweep: JSON lines, or how far it is and what failed."""

    def __init__(self, folder: Path, json: bool):
        self._folder, self._json = folder, json
        self._total, self._failed, self._last = 0, 0, time.monotonic()
        self._out = sys.stdout  # as it is now: while Ray is connected it is another

    def started(self, cells: int, missing: int) -> None:
        self._total = cells
        self._event("sweep_started", cells=cells, missing=missing, folder=str(self._folder))
        if missing < cells and not self._json:
            say(f"{cells - missing} of {cells} cells are done already")

    def finished(self, cell: Cell, outcome: Outcome, left: int) -> None:
        swept = portable_params(cell.swept)
        self._event("cell_finished", cell=cell.key, parameters=swept, **vars(outcome))
        if self._json:
            return
        if outcome.status == "failed":
            self._failed += 1
            where = ", ".join(f"{name}={jsonlib.dumps(value)}" for name, value in swept.items())
            say(f"failed: {where}: {outcome.message}")
        now = time.monotonic()
        if left and now - self._last >= _EVERY:
            self._last = now
            say(f"{self._total - left} of {self._total} cells, {self._failed} failed")

    def ended(self, summary: Summary) -> None:
        self._event("sweep_finished", **vars(summary), folder=str(self._folder))
        if not self._json:
            counts = f"{summary.cells} cells: {summary.done} done ({summary.before} before), {summary.failed} failed"
            print_text(f"{counts}; wrote {self._folder / TABLE}", file=self._out)

    def _event(self, event: str, **fields: object) -> None:
        if self._json:
            print_json(jsonlib.dumps({"event": event, **fields}), file=self._out)

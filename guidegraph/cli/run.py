"""``run``: from arguments to files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from guidegraph.cli.cancel import cancelled_by_signals
from guidegraph.cli.errors import argument_problem, print_json, print_text, say
from guidegraph.cli.launch import Processes, check_processes, launch
from guidegraph.cli.options import Chosen
from guidegraph.cli.plugins import required_plugins
from guidegraph.cli.source import (
    Opened,
    bound,
    chosen_budget,
    chosen_passes,
    given_names,
    open_workflow,
    place_problems,
    unknown_outputs,
)
from guidegraph.graph.admission import admission_problems
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.events import CancelToken, Observer
from guidegraph.graph.plan import needed_ops
from guidegraph.graph.registry import Registry
from guidegraph.graph.share import process_share
from guidegraph.graph.trust.folders import hold_folder
from guidegraph.graph.trust.policy import Grants, Policy, check_effects
from guidegraph.observers import Bars, JsonLog, PlainLog
from guidegraph.outputs import RECORD, OutputWriter, output_problems
from guidegraph.plugins.hookspecs import RunInfo
from guidegraph.plugins.manager import PluginManager
from guidegraph.recorded import Job, RecordedRun
from guidegraph_runtime.files import run_folder, unfinished_start
from guidegraph_runtime.shortages import with_shortage


@dataclass(frozen=True)
class Arguments:
    """The arguments of ``run``, as they were given."""

    workflow: Path
    settings: Sequence[str]
    only: list[str] | None
    out: Path | None
    device: str
    dtype: str | None
    cache: str
    memory_budget: str | None
    passes: str
    json: bool
    quiet: bool
    verbose: bool
    plugins: Chosen
    processes: Processes
    grants: Grants


@dataclass(frozen=True)
class Ready:
    """A run with nothing wrong in it: all that could be checked before was."""

    opened: Opened
    values: dict[str, Any]
    only: list[str] | None
    dtype: str
    passes: frozenset[str]
    cache: Path | None
    memory_budget: int | None
    policy: Policy


def run_command(given: Arguments) -> None:
    if given.processes.several:
        _run_in_processes(given)
        return
    token = CancelToken()
    with cancelled_by_signals(token, say):
        manager = required_plugins(given.plugins)
        ready = _checked(given, manager.registry)
        token.check()
        _run(given, ready, manager, token)


def _run_in_processes(given: Arguments) -> None:
    """Check once, here, and let the processes run."""
    ready = _checked(given, required_plugins(given.plugins).registry)
    check_processes(given.processes, ready.opened.graph, given.device)
    launch(given.processes, sys.argv[1:], made_folder(given.out, ready.opened.graph.name))


def _checked(given: Arguments, registry: Registry) -> Ready:
    """Raises ``WorkflowError`` that lists everything wrong with the workflow and the arguments."""
    problems = place_problems(given.device, given.dtype)
    passes = chosen_passes(given.passes, problems)
    budget = chosen_budget(given.memory_budget, given.device, problems)
    cache = None if given.cache == "off" else Path(given.cache).expanduser()
    for option, folder in (("--cache", cache), ("--out", given.out)):
        if folder is not None and folder.exists() and not folder.is_dir():
            problems.append(argument_problem("not-a-folder", f"'{folder}' is not a folder", option))
    try:
        opened = open_workflow(given.workflow, registry)
    except WorkflowError as error:
        raise WorkflowError([*problems, *error.problems]) from None
    recipe = opened.recipe
    only = given.only or (recipe.only if recipe else None)
    problems += unknown_outputs(opened.graph, only)
    problems += output_problems(opened.graph, registry, only)
    dtype = given.dtype or (recipe.dtype if recipe else "float32")
    values = bound(opened, given.settings, problems)
    policy = opened.policy(given.grants, given_names(given.settings), given.out)
    check_effects(needed_ops(opened.graph, only, values), values, policy)
    if refused := admission_problems(opened.graph, values, only):
        raise WorkflowError(refused)
    return Ready(opened, values, only, dtype, passes, cache, budget, policy)


def _run(given: Arguments, ready: Ready, manager: PluginManager, token: CancelToken) -> None:
    graph, values, device = ready.opened.graph, ready.values, own_device(given.device)
    if process_share().index:
        # One of several processes of a training: the first writes and shows what all have made.
        _run_silently(ready, device, token)
        return
    job = Job(
        graph,
        manager.registry,
        values,
        ready.only,
        device,
        ready.dtype,
        ready.passes,
        ready.cache,
        ready.memory_budget,
        ready.policy,
    )
    folder = made_folder(given.out, graph.name)
    recorded = RecordedRun(job, folder)
    writer = recorded.writer
    with hold_folder(folder, "guidegraph run"):
        if (started := unfinished_start(folder / RECORD)) and not given.quiet:
            say(f"note: the last run into '{folder}', started {started}, was killed, or could not write")
        plugins = plugin_observers(manager, RunInfo(graph, values, device, ready.dtype))
        with _shown(given, writer) as shown:
            # One process, one run: values in memory would be kept for nobody.
            recorded.run([*shown, *plugins], token)
    if not (given.json or given.quiet):
        for name, text in writer.tables.items():
            print_text(f"{name}\n\n{text}\n")
        print_text(_summary(folder, writer))


def _run_silently(ready: Ready, device: str, token: CancelToken) -> None:
    from guidegraph.graph.run import RunOptions, run

    options = RunOptions(
        device=device,
        dtype=ready.dtype,
        passes=ready.passes,
        cancel=token,
        only=ready.only,
        memory_budget=ready.memory_budget,
        policy=ready.policy,
    )
    run(ready.opened.graph, ready.values, options)


def own_device(device: str) -> str:
    """The device of this process, where several share a training."""
    shared = device == "cuda" and process_share().count > 1
    return f"cuda:{os.environ['LOCAL_RANK']}" if shared else device


def plugin_observers(manager: PluginManager, info: RunInfo) -> list[Observer]:
    """The plugins' observers; one that is not to be had, or that fails later, is reported, and the run goes on."""
    before = {status.name for status in manager.statuses if status.state == "failed"}
    found = manager.observers(info, say)
    for status in manager.statuses:
        if status.state == "failed" and status.name not in before:
            say(f"warning: the plugin {status.name} gives no observer: {status.reason}")
    return found


def made_folder(out: Path | None, name: str) -> Path:
    """The folder for the files, made. Raises ``WorkflowError`` where it cannot be."""
    try:
        return run_folder(out, name)
    except OSError as error:
        reason = with_shortage(str(error), error)
        problem: Problem = argument_problem("no-folder", f"the folder for the files cannot be made: {reason}", "--out")
        raise WorkflowError([problem]) from error


@contextmanager
def _shown(given: Arguments, writer: OutputWriter) -> Iterator[list[Observer]]:
    """What shows the run while it goes on: JSON lines, a plain log, bars on a terminal, or a line a minute."""
    if given.json:
        yield [JsonLog(print_json, lambda name: writer.files.get(name, []))]
    elif given.verbose:
        yield [PlainLog(say)]
    elif given.quiet:
        yield []
    elif not typer.get_text_stream("stderr").isatty():
        yield [PlainLog(say, every=60.0, nodes=False)]
    else:
        from rich.console import Console

        with Bars(Console(stderr=True)) as bars:
            yield [bars]


def _summary(folder: Path, writer: OutputWriter) -> str:
    """Where the files are, on one line."""
    names: list[str] = []
    for output, files in writer.files.items():
        whole = len(files) == 1 or output in writer.tables
        names += files if whole else [f"{files[0]} … {files[-1]}"]
    if len(names) == 1 and " … " not in names[0]:
        return f"wrote {folder / names[0]}"
    return f"wrote {', '.join(names)} in {folder}"

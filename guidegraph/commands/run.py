"""``run``: check the arguments, run the workflow, write its files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.options import (
    AllowCode,
    AllowRead,
    AllowWrite,
    Device,
    Dtype,
    Events,
    File,
    LimitSettings,
    NodeTraceback,
    NoPlugins,
    Only,
    Passes,
    Plugins,
    PluginSelection,
    Settings,
    make_grants,
)
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.commands.shared.printing import print_json, print_note, print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.commands.shared.run_folder import prepare_run_folder
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.registry import Registry
from guidegraph.graph.training.ranks import process_rank
from guidegraph.graph.trust.policy import Grants, Policy, check_effects
from guidegraph.runs.outputs import RECORD, OutputWriter, output_problems
from guidegraph_runtime.files.run_folders import find_killed_run

if TYPE_CHECKING:
    from guidegraph.commands.launch_processes import Processes
    from guidegraph.commands.shared.open_workflow import OpenedWorkflow
    from guidegraph.graph.cancellation import CancelToken
    from guidegraph.graph.events import Observer
    from guidegraph.plugins.hookspecs import RunInfo
    from guidegraph.plugins.manager import PluginManager


@dataclass(frozen=True)
class RunArguments:
    """The arguments of ``run``, not yet checked."""

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
    plugins: PluginSelection
    processes: Processes
    grants: Grants


@dataclass(frozen=True)
class CheckedRun:
    """A run whose arguments passed every check that can be made beforehand."""

    opened: OpenedWorkflow
    values: dict[str, Any]
    only: list[str] | None
    dtype: str
    passes: frozenset[str]
    cache: Path | None
    memory_budget: int | None
    policy: Policy


@app.command(
    epilog=examples(
        'run draw.yaml --set prompt="a tiger on grass" --set seed=7',
        "run draw.yaml --out pictures --only image --device cuda --dtype bfloat16",
        "run draw.yaml --device cuda --memory-budget 6GB",
        "run runs/20260131-120000-draw/image.png --set scale=2",
        "run draw.yaml --cache ~/.cache/guidegraph --json",
    )
)
def run(
    workflow: File,
    set: Settings = None,
    only: Only = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files go.", show_default="runs/<time>-<name>")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    cache: Annotated[
        str, typer.Option(metavar="DIR|off", help="Keep values in this folder, and recompute only what has changed.")
    ] = "off",
    memory_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="How much of the models' weights may be on the device at once, such as 6GB or 800MB."
        ),
    ] = None,
    passes: Passes = "all",
    json: Events = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print a line for each node, on stderr.")] = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    traceback: NodeTraceback = False,
    allow_read: AllowRead = None,
    allow_write: AllowWrite = None,
    allow_code: AllowCode = None,
    devices: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Split each training batch across N processes, one per device."),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, metavar="M", help="Number of machines in the training.")] = 1,
    node_rank: Annotated[int, typer.Option(min=0, metavar="I", help="Index of this machine, from 0.")] = 0,
    rendezvous: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Address of machine 0.")] = None,
    restarts: Annotated[
        int, typer.Option(min=0, metavar="K", help="Maximum restarts from the checkpoint after a process is killed.")
    ] = 3,
    limit: LimitSettings = None,
) -> None:
    """Run a workflow and write its outputs: pictures to PNG, tensors to safetensors, the rest to JSON.

    Each file is written as soon as its output is ready. Beside them run.json says what was run: workflow,
    parameters, seeds, digests, versions, timings. Every PNG carries its workflow and parameters: a picture
    given in place of a workflow is made again, with its whole batch.
    """
    from guidegraph.commands.launch_processes import Processes
    from guidegraph.commands.shared.open_workflow import apply_limits

    arguments = RunArguments(
        workflow,
        set or [],
        only,
        out,
        device,
        dtype,
        cache,
        memory_budget,
        passes,
        json,
        quiet,
        verbose,
        select_plugins(plugin, no_plugins),
        Processes(devices, nodes, node_rank, rendezvous, restarts),
        make_grants(allow_read, allow_write, allow_code),
    )
    with apply_limits(limit):
        if arguments.processes.starts_others:
            _run_in_processes(arguments)
        else:
            _run_here(arguments)


def _run_here(arguments: RunArguments) -> None:
    """Run in this process; signals cancel the run."""
    from guidegraph.commands.shared.signals import cancel_on_signals
    from guidegraph.graph.cancellation import CancelToken

    token = CancelToken()
    with cancel_on_signals(token, print_note):
        manager = require_plugins(arguments.plugins)
        checked = _check_arguments(arguments, manager.registry)
        token.check()
        _run(arguments, checked, manager, token)


def _run_in_processes(arguments: RunArguments) -> None:
    """Check the arguments once here, then launch the processes."""
    from guidegraph.commands.launch_processes import check_processes, launch

    checked = _check_arguments(arguments, require_plugins(arguments.plugins).registry)
    check_processes(arguments.processes, checked.opened.graph, arguments.device)
    launch(arguments.processes, sys.argv[1:], prepare_run_folder(arguments.out, checked.opened.graph.name))


def _check_arguments(arguments: RunArguments, registry: Registry) -> CheckedRun:
    """Check everything before the run. Raises ``WorkflowError`` that lists all problems."""
    from guidegraph.commands.shared.open_workflow import (
        bind_settings,
        device_problems,
        open_workflow,
        parse_budget,
        parse_passes,
        setting_names,
        unknown_output_problems,
    )
    from guidegraph.graph.planning.admission import admission_problems
    from guidegraph.graph.planning.plan import find_needed_ops

    problems = device_problems(arguments.device, arguments.dtype)
    passes = parse_passes(arguments.passes, problems)
    budget = parse_budget(arguments.memory_budget, arguments.device, problems)
    cache = None if arguments.cache == "off" else Path(arguments.cache).expanduser()
    for option, folder in (("--cache", cache), ("--out", arguments.out)):
        if folder is not None and folder.exists() and not folder.is_dir():
            problems.append(argument_problem("not-a-folder", f"'{folder}' is not a folder", option))
    try:
        workflow = open_workflow(arguments.workflow, registry)
    except WorkflowError as error:
        raise WorkflowError([*problems, *error.problems]) from None
    recipe = workflow.recipe
    only = arguments.only or (recipe.only if recipe else None)
    problems += unknown_output_problems(workflow.graph, only)
    problems += output_problems(workflow.graph, registry, only)
    dtype = arguments.dtype or (recipe.dtype if recipe else "float32")
    values = bind_settings(workflow, arguments.settings, problems)
    policy = workflow.policy(arguments.grants, setting_names(arguments.settings), arguments.out)
    check_effects(find_needed_ops(workflow.graph, only, values), values, policy)
    if admission := admission_problems(workflow.graph, values, only):
        raise WorkflowError(admission)
    return CheckedRun(workflow, values, only, dtype, passes, cache, budget, policy)


def _run(arguments: RunArguments, checked: CheckedRun, manager: PluginManager, token: CancelToken) -> None:
    from guidegraph.graph.trust.folder_locks import lock_folder
    from guidegraph.plugins.hookspecs import RunInfo
    from guidegraph.runs.run import Job, RecordedRun

    graph, values, device = checked.opened.graph, checked.values, process_device(arguments.device)
    if process_rank().index:
        # One of several training processes: rank 0 writes the files and shows the progress.
        _run_silently(checked, device, token)
        return
    job = Job(
        graph,
        manager.registry,
        values,
        checked.only,
        device,
        checked.dtype,
        checked.passes,
        checked.cache,
        checked.memory_budget,
        checked.policy,
    )
    folder = prepare_run_folder(arguments.out, graph.name)
    recorded = RecordedRun(job, folder)
    writer = recorded.writer
    with lock_folder(folder, "guidegraph run"):
        if (started := find_killed_run(folder / RECORD)) and not arguments.quiet:
            print_note(f"note: the last run into '{folder}', started {started}, was killed, or could not write")
        plugins = make_plugin_observers(manager, RunInfo(graph, values, device, checked.dtype))
        with _progress_observers(arguments, writer) as progress:
            # One run per process: a memory cache would have no further use.
            recorded.run([*progress, *plugins], token)
    if not (arguments.json or arguments.quiet):
        for name, text in writer.tables.items():
            print_text(f"{name}\n\n{text}\n")
        print_text(_summary(folder, writer))


def _run_silently(checked: CheckedRun, device: str, token: CancelToken) -> None:
    from guidegraph.graph.execution.run import RunOptions, run

    options = RunOptions(
        device=device,
        dtype=checked.dtype,
        passes=checked.passes,
        cancel=token,
        only=checked.only,
        memory_budget=checked.memory_budget,
        policy=checked.policy,
    )
    run(checked.opened.graph, checked.values, options)


def process_device(device: str) -> str:
    """The device of this process: ``cuda:LOCAL_RANK`` when several processes share a training."""
    shared = device == "cuda" and process_rank().count > 1
    return f"cuda:{os.environ['LOCAL_RANK']}" if shared else device


def make_plugin_observers(manager: PluginManager, info: RunInfo) -> list[Observer]:
    """The plugins' observers. One that fails, now or later, is reported, and the run goes on."""
    failed = {status.name for status in manager.statuses if status.state == "failed"}
    observers = manager.observers(info, print_note)
    for status in manager.statuses:
        if status.state == "failed" and status.name not in failed:
            print_note(f"warning: the plugin {status.name} gives no observer: {status.reason}")
    return observers


@contextmanager
def _progress_observers(arguments: RunArguments, writer: OutputWriter) -> Iterator[list[Observer]]:
    """Context manager: observers that show progress: JSON lines, a log, bars, or (off a terminal) a line a minute."""
    from guidegraph.runs.observers import Bars, JsonLog, PlainLog

    if arguments.json:
        yield [JsonLog(print_json, lambda name: writer.files.get(name, []))]
    elif arguments.verbose:
        yield [PlainLog(print_note)]
    elif arguments.quiet:
        yield []
    elif not typer.get_text_stream("stderr").isatty():
        yield [PlainLog(print_note, every=60.0, nodes=False)]
    else:
        from rich.console import Console

        with Bars(Console(stderr=True)) as bars:
            yield [bars]


def _summary(folder: Path, writer: OutputWriter) -> str:
    """One line with the files that were written."""
    names: list[str] = []
    for output, files in writer.files.items():
        listed = len(files) == 1 or output in writer.tables
        names += files if listed else [f"{files[0]} … {files[-1]}"]
    if len(names) == 1 and " … " not in names[0]:
        return f"wrote {folder / names[0]}"
    return f"wrote {', '.join(names)} in {folder}"

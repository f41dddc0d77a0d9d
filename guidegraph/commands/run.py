"""``run``: check the arguments, run the workflow, write its files."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guidegraph.commands.shared import options
from guidegraph.commands.shared.errors import argument_problem
from guidegraph.commands.shared.options import AcceleratedCommand
from guidegraph.commands.shared.printing import print_json, print_note, print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.commands.shared.supervised import cancel_on_signals
from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.stopping.loop_state import LoopStopped
from guidegraph.graph.training.ranks import process_rank
from guidegraph.graph.trust.file_checks import lock_folder
from guidegraph_runtime.files.run_folders import RUNS
from guidegraph_runtime.run_json import RECORD, describe_killed_run, describe_older_files, read_record, summarise_files

if TYPE_CHECKING:
    from guidegraph.commands.shared.open_workflow import WorkflowRequest
    from guidegraph.commands.shared.run_settings import RunSettings
    from guidegraph.graph.events import Observer
    from guidegraph.graph.ir import Graph
    from guidegraph.graph.run_config import RunConfig
    from guidegraph.plugins.manager import PluginManager
    from guidegraph.runs.outputs import OutputWriter
    from guidegraph.runs.run import RecordedRun
    from guidegraph.session import Prepared


@app.command(
    cls=AcceleratedCommand,
    epilog=examples(
        'run draw.yaml --set prompt="a tiger on grass" --set seed=7',
        "run draw.yaml --out pictures --only image --device cuda --dtype bfloat16",
        "run draw.yaml --device cuda --memory-budget 6GB",
        "run draw.yaml --accelerate",
        "run runs/20260131-120000-draw/image.png --set scale=2",
        "run draw.yaml --stop-at 20 --out look",
        "run draw.yaml --resume look/stopped-sample-0020.safetensors --set scale=5",
        "run draw.yaml --cache ~/.cache/guidegraph --json",
    ),
)
@options.add_run_options("run")
def run(
    workflow: options.File,
    set: options.Settings = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=options.user_path, metavar="DIR", help="Where the files go.", show_default="runs/<time>-<name>"
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(parser=options.user_path, metavar="FILE", help="Go on from the file of a run that was stopped."),
    ] = None,
    json: options.Events = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print a line for each node, on stderr.")] = False,
    plugin: options.Plugins = None,
    no_plugins: options.NoPlugins = False,
    traceback: options.NodeTraceback = False,
    allow_read: options.AllowRead = None,
    allow_write: options.AllowWrite = None,
    allow_code: options.AllowCode = None,
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
    limit: options.LimitSettings = None,
    **settings: Any,
) -> None:
    """Run a workflow and write its outputs: pictures to PNG, tensors to safetensors, the rest to JSON.

    Each file is written as soon as its output is ready. run.json records the run: workflow,
    parameters, seeds, digests, versions, timings. Every PNG carries its workflow and parameters: give a picture in
    place of a workflow to repeat its run, with the whole batch.

    --resume continues with the parameters in the file, changed by --set. What the body of the loop reads may change:
    prompt, scale, guidance. What the loop runs over and starts from may not: sampler, steps, model, batch.
    """
    from guidegraph.commands.shared.open_workflow import WorkflowRequest, name_picture
    from guidegraph.commands.shared.run_settings import RunSettings, apply_limits, write_resume_command
    from guidegraph.graph.execution.loop_context import Attachments
    from guidegraph.session import make_folder

    grants = options.make_grants(allow_read, allow_write, allow_code)
    request = WorkflowRequest(workflow, set or [], select_plugins(plugin, no_plugins), grants, resume=resume)
    run_settings = RunSettings(settings)
    token = CancelToken()
    with apply_limits(limit), name_picture(workflow), ExitStack() as signals:
        if (devices, nodes, node_rank, rendezvous) != (None, 1, 0, None):
            from guidegraph.commands.launch_processes import Processes, check_processes, launch

            processes = Processes(devices, nodes, node_rank, rendezvous, restarts)
            if processes.starts_others:  # check the arguments once here
                session = _prepare(request, run_settings, out)[1].session
                check_processes(processes, session.graph, session.config.device)
                if run_settings["stop_at"] or resume is not None:
                    message = "training loops resume from their checkpoints: leave out --stop-at and --resume"
                    raise WorkflowError([argument_problem("bad-stop", message, "--devices")])
                launch(processes, sys.argv[1:], make_folder(out, session.graph.name))
                return
        signals.enter_context(cancel_on_signals(token, print_note))
        manager, prepared = _prepare(request, run_settings, out)
        token.check()
        if process_rank().index:  # of several training processes, rank 0 writes the files and shows the progress
            prepared.run(Attachments(cancel=token))
            return
        graph, folder = prepared.session.graph, make_folder(out, prepared.session.graph.name)
        recorded = prepared.record(folder)
        display = Display(json, quiet, verbose)
        with lock_folder(folder, "guidegraph run"):
            if not quiet and (note := describe_killed_run(folder)):
                print_note(note)
            earlier = read_record(folder / RECORD)
            plugins = make_plugin_observers(manager, graph, prepared.values, prepared.session.config)
            with display.observe(recorded.writer) as progress, suppress(LoopStopped):
                # One run per process: a memory cache would have no further use.
                recorded.run([*progress, *plugins], token)
            older = describe_older_files(folder, earlier, recorded.writer.files)
        stopped = recorded.stopped
        if json and stopped:
            print_json(jsonlib.dumps({"event": "run_stopped", **stopped.describe(), "file": stopped.file}))
        if not (json or quiet):
            command = write_resume_command(request, run_settings, limit or [], graph, stopped) if stopped else ""
            display.summarise(folder, recorded, command)
        if older and not quiet:
            print_note(older)


def _prepare(request: WorkflowRequest, settings: RunSettings, out: Path | None) -> tuple[PluginManager, Prepared]:
    """Check everything before the run. Raises ``WorkflowError`` that lists all problems."""
    from guidegraph.commands.shared.open_workflow import parse_settings
    from guidegraph.session import list_folder_problems

    problems: list[Problem] = []
    request.load_plugins()
    config = settings.parse(problems)
    problems += list_folder_problems({"--out": out or RUNS})
    opened = request.open(problems)
    config = opened.complete(replace(config, device=process_device(config.device)), settings["dtype"], out)
    session = opened.start_session(config, problems)
    texts = parse_settings(request.settings, problems)
    return opened.manager, session.prepare(texts, text=True, label="--set", problems=problems, only="--only")


def process_device(device: str) -> str:
    """The device of this process: ``cuda:LOCAL_RANK`` when several processes share a training."""
    shared = device == "cuda" and process_rank().count > 1
    return f"cuda:{os.environ['LOCAL_RANK']}" if shared else device


def make_plugin_observers(
    manager: PluginManager, graph: Graph, values: Mapping[str, Any], config: RunConfig
) -> list[Observer]:
    """The plugins' observers. One that fails, now or later, is reported, and the run goes on."""
    failed = {status.name for status in manager.failures}
    observers = manager.observers(graph, values, config, print_note)
    for status in manager.failures:
        if status.name not in failed:
            print_note(f"warning: the plugin {status.name} gives no observer: {status.reason}")
    return observers


@dataclass(frozen=True)
class Display:
    """How the run is shown: JSON lines, nothing, a line a node, or (by default) bars and a summary."""

    json: bool
    quiet: bool
    verbose: bool

    @contextmanager
    def observe(self, writer: OutputWriter) -> Iterator[list[Observer]]:
        """Context manager: observers that show progress, by a line a minute where stderr is not a terminal."""
        from guidegraph.runs.observers import Bars, JsonLog, PlainLog

        if self.json:
            yield [JsonLog(print_json, lambda name: writer.files.get(name, []))]
        elif self.verbose:
            yield [PlainLog(print_note)]
        elif self.quiet:
            yield []
        elif not typer.get_text_stream("stderr").isatty():
            yield [PlainLog(print_note, every=60.0, nodes=False)]
        else:
            from rich.console import Console

            with Bars(Console(stderr=True)) as bars:
                yield [bars]

    def summarise(self, folder: Path, recorded: RecordedRun, resume_command: str) -> None:
        """Print the tables, and a line with the files that were written, or the command that resumes the run."""
        writer = recorded.writer
        for name, text in writer.tables.items():
            print_text(f"{name}\n\n{text}\n")
        if writer.files or not recorded.stopped:
            print_text(summarise_files(folder, writer.files, listed=writer.tables))
        if recorded.stopped:
            state = recorded.stopped.state
            print_text(f"stopped after {state.done} of {state.total} iterations of nodes.{state.loop}")
            print_text(f"resume with: {resume_command}")

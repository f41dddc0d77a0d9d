"""``sweep``: run a workflow for each cell of a grid, into one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guidegraph.commands.shared import options
from guidegraph.commands.shared.errors import FAILED
from guidegraph.commands.shared.options import AcceleratedCommand
from guidegraph.commands.shared.root import examples, select_plugins

if TYPE_CHECKING:
    pass


def add_sweep(app: typer.Typer) -> None:
    """Add the command to the application."""
    lines = (
        "sweep draw.yaml --grid scale=1,2,4 --seeds 0:64",
        "sweep draw.yaml --grid steps=10,30 --from prompts.csv --set scale=3 --out runs/steps",
        "sweep draw.yaml --grid scale=1,2,4 --seeds 0:64 --ray local --workers 4",
    )
    app.command(cls=AcceleratedCommand, epilog=examples(*lines))(sweep)


@options.add_run_options("sweep")
def sweep(
    workflow: options.File,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="K=V,V,…", help="The values of a parameter; all combinations of several are run."),
    ] = None,
    seeds: Annotated[
        list[str] | None, typer.Option(metavar="FIRST:END", help="The values of the parameter seed: 0:64, or 1,5,9.")
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            parser=options.user_path,
            metavar="FILE.csv",
            help="Rows of values; its first line names the parameters.",
        ),
    ] = None,
    set: options.Settings = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=options.user_path,
            metavar="DIR",
            help="Where the files go; a sweep in this folder is resumed.",
            show_default="runs/<time>-<name>-sweep",
        ),
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="local|ADDRESS", help="Run on Ray: one started here, or a cluster.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", help="How many cells run at once on Ray.", show_default="one per core"),
    ] = None,
    json: options.Events = False,
    plugin: options.Plugins = None,
    no_plugins: options.NoPlugins = False,
    allow_read: options.AllowRead = None,
    allow_write: options.AllowWrite = None,
    allow_code: options.AllowCode = None,
    limit: options.LimitSettings = None,
    **settings: Any,
) -> None:
    """Run a workflow for each cell of a grid of parameters: one folder of runs, one table, one contact sheet.

    A finished cell is not run again unless something that it depends on has changed, so an interrupted sweep resumes
    with the missing cells. A failed cell is reported, and the others continue; the exit code is then 1.
    --ray needs Ray: pip install -e "./plugins/lab[ray]" in a checkout.
    """
    from guidegraph.commands.shared.open_workflow import WorkflowRequest
    from guidegraph.commands.shared.run_settings import RunSettings
    from guidegraph_lab.sweep.sweep_arguments import SweepArguments, sweep_by_arguments

    grants = options.make_grants(allow_read, allow_write, allow_code)
    request = WorkflowRequest(workflow, set or [], select_plugins(plugin, no_plugins), grants)
    arguments = SweepArguments(request, RunSettings(settings), grid or [], seeds or [], table or [], out, ray, workers)
    if sweep_by_arguments(arguments, limit or [], json).failed:
        raise typer.Exit(FAILED)

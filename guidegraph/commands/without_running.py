"""The commands that run no workflow: their arguments and help. The modules that implement them are imported when a
command is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guidegraph.commands.shared.options import (
    AllowCode,
    AllowRead,
    AllowWrite,
    File,
    Json,
    LimitSettings,
    NoPlugins,
    Only,
    Output,
    Passes,
    Plugins,
    Settings,
    make_grants,
)
from guidegraph.commands.shared.root import app, examples, select_plugins


@app.command(epilog=examples("validate draw.yaml", "validate workflows/*.yaml --plugin my_nodes"))
def validate(
    workflows: Annotated[list[Path], typer.Argument(metavar="WORKFLOW...", show_default=False, help="Workflows.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 2 also for a workflow that is right and cannot run here.")
    ] = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    allow_read: AllowRead = None,
    allow_write: AllowWrite = None,
    allow_code: AllowCode = None,
    limit: LimitSettings = None,
) -> None:
    """Check workflows without running them, and print every error of each.

    With the defaults of its parameters: what cannot go together is an error. What only this machine lacks (an extra of
    guidegraph, a file, a part of a model) is said, with what to do, and ends with 2 only with --strict. The files that
    a workflow reads, writes or loads code from are listed, but for those that ship with guidegraph.
    """
    from guidegraph.commands.inspect import validate_command
    from guidegraph.commands.shared.source import apply_limits

    grants = make_grants(allow_read, allow_write, allow_code)
    with apply_limits(limit):
        validate_command(workflows, strict, select_plugins(plugin, no_plugins), grants)


@app.command(epilog=examples("plan draw.yaml", "plan draw.yaml --set scale=1 --json", "plan draw.yaml --passes none"))
def plan(
    workflow: File,
    set: Settings = None,
    only: Only = None,
    passes: Passes = "all",
    json: Json = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    allow_read: AllowRead = None,
    allow_write: AllowWrite = None,
    allow_code: AllowCode = None,
    limit: LimitSettings = None,
) -> None:
    """Show the passes, the flat plan that a run would follow, and the files that it would read and write."""
    from guidegraph.commands.inspect import plan_command
    from guidegraph.commands.shared.source import apply_limits

    grants = make_grants(allow_read, allow_write, allow_code)
    with apply_limits(limit):
        plan_command(workflow, set or [], only, passes, json, select_plugins(plugin, no_plugins), grants)


@app.command(epilog=examples("draw draw.yaml -o graph.svg"))
def draw(
    workflow: File,
    output: Output = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
    limit: LimitSettings = None,
) -> None:
    """Draw a workflow as SVG, with the bodies of its loops as boxes."""
    from guidegraph.commands.inspect import draw_command
    from guidegraph.commands.shared.source import apply_limits

    with apply_limits(limit):
        draw_command(workflow, output, select_plugins(plugin, no_plugins))


@app.command(epilog=examples("report runs/20260131-120000-draw", "report runs/sweep --x steps --by sampler"))
def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", show_default=False, help="What run or sweep wrote, or a folder of several."),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="The page.", show_default="DIR/report.html")
    ] = None,
    x: Annotated[
        str | None, typer.Option(metavar="NAME", help="What curves are over: a parameter, an output or a column.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A parameter or column that tells lines apart; others tell plots apart."),
    ] = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Write one HTML page of a run, a sweep, or several beside each other.

    It has the pictures, curves with intervals, tables, parameters, graph, time by node, versions and failures.
    The page holds all that it shows: open it in a browser, or send it by mail. Needs pip install "guidegraph[plot]".
    """
    from guidegraph.commands.report import report_command

    report_command(folder, output, x, by or [], select_plugins(plugin, no_plugins))


@app.command(epilog=examples("nodes", "nodes guidance.cfg", "nodes scheduler.ddim --json", "nodes --markdown"))
def nodes(
    id: Annotated[
        str | None, typer.Argument(metavar="ID", help="One node, or a namespace.", show_default=False)
    ] = None,
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """List the nodes, or show the ports, settings and outputs of one."""
    from guidegraph.commands.nodes import nodes_command

    nodes_command(id, json, markdown, select_plugins(plugin, no_plugins))


@app.command(epilog=examples("plugins", "plugins --plugin my_nodes", "plugins --json"))
def plugins(json: Json = False, plugin: Plugins = None, no_plugins: NoPlugins = False) -> None:
    """List the plugins: what each brings, and why one could not be loaded.

    The exit code is 0 also where plugins failed: --json gives the state of each.
    """
    from guidegraph.commands.listing import plugins_command

    plugins_command(app, json, select_plugins(plugin, no_plugins))


@app.command(
    "new-plugin",
    epilog=examples("new-plugin soft", "new-plugin soft -o ~/work/soft"),
)
def new_plugin(
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="Its namespace: node ids begin with it.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="The folder to write.", show_default="guidegraph-NAME"),
    ] = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Write a package with a guidance node, a workflow that draws with it, and tests: a start for a plugin of your own.

    It installs with pip, passes its tests and draws a picture as it is.
    """
    from guidegraph.commands.new_plugin import new_plugin_command

    new_plugin_command(name, output, select_plugins(plugin, no_plugins))


@app.command(epilog=examples("schema -o guidegraph.schema.json"))
def schema(output: Output = None, plugin: Plugins = None, no_plugins: NoPlugins = False) -> None:
    """Print the JSON Schema of workflows with the nodes that are installed, for an editor."""
    from guidegraph.commands.listing import schema_command

    schema_command(output, select_plugins(plugin, no_plugins))

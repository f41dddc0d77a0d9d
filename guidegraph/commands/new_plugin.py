"""``new-plugin``: a folder with a plugin that installs, passes its tests and draws a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guidegraph.commands.plugin_template import (
    Kind,
    folder_problem,
    next_steps,
    render_template,
    why_unfit,
    write_folder,
)
from guidegraph.commands.shared.errors import NAME, argument_problem
from guidegraph.commands.shared.options import NoPlugins, PluginFolder, Plugins
from guidegraph.commands.shared.plugins import load_plugins
from guidegraph.commands.shared.printing import print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.graph.errors import WorkflowError
from guidegraph.graph.paths import PACKAGE
from guidegraph.plugins.entry_points import (
    NAMESPACES_GROUP,
    OWN_DISTRIBUTION,
    find_packages,
    list_entry_points,
    normalise_name,
    read_distribution,
)
from guidegraph_runtime.machine.shortages import with_shortage


@app.command(
    "new-plugin",
    epilog=examples("new-plugin soft", "new-plugin soft -o ~/work/soft", "new-plugin pebble --family --diffusers"),
)
def new_plugin(
    name: Annotated[
        str, typer.Argument(metavar="NAME", show_default=False, help="Its namespace: node ids begin with it.")
    ],
    family: Annotated[
        bool, typer.Option("--family", help="Write a family of checkpoints in place of a guidance node.")
    ] = False,
    diffusers: Annotated[
        bool, typer.Option("--diffusers", help="With --family: write one whose networks are classes of diffusers.")
    ] = False,
    output: PluginFolder = None,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """Write a package with a guidance node, a workflow that draws with it, and tests: the start of your own plugin.

    With --family, it has a network and its checkpoints in place of the node; with --family --diffusers, a pipeline of
    diffusers. It installs with pip, passes its tests and draws a picture as it is.
    """
    kind: Kind = "pipeline" if family and diffusers else "family" if family else "guidance"
    manager = load_plugins(select_plugins(plugin, no_plugins))
    manager.load_all()
    owners = {status.name: f"{status.distribution} {status.version}" for status in manager.statuses}
    owners |= {id.partition(".")[0]: spec.distribution for id, spec in manager.registry.nodes.items()}
    owners |= {entry.name: read_distribution(entry)[0] for entry in list_entry_points(NAMESPACES_GROUP)}
    owners |= {name: " and ".join(packages)} if (packages := find_packages(name)) else {}
    owners[PACKAGE.removesuffix(":")] = OWN_DISTRIBUTION
    problems = [argument_problem("bad-name", reason, NAME)] if (reason := why_unfit(name, owners)) else []
    if diffusers and not family:
        message = "it is for a family of checkpoints: add --family"
        problems.append(argument_problem("incomplete", message, "--diffusers"))
    folder = output or Path(normalise_name(f"{OWN_DISTRIBUTION}-{name}"))
    if (output or not problems) and (reason := folder_problem(folder)):
        problems.append(argument_problem("not-empty", reason, "--output"))
    if problems:
        raise WorkflowError(problems)
    try:
        write_folder(render_template(name, kind), folder)
    except OSError as error:
        message = with_shortage(f"the folder cannot be written: {error}", error)
        raise WorkflowError([argument_problem("no-folder", message, "--output")]) from error
    for line in next_steps(name, folder, kind):
        print_text(line)

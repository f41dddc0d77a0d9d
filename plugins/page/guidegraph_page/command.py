"""``open``: a page in the browser for a workflow or a folder of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from guidegraph.commands.shared import options
from guidegraph.commands.shared.plugins import require_all_plugins
from guidegraph.commands.shared.printing import print_note, print_text
from guidegraph.commands.shared.root import examples, select_plugins
from guidegraph.graph.errors import Problem, WorkflowError
from guidegraph.graph.trust.policy import Policy


def add_open(app: typer.Typer) -> None:
    """Add the command to the application."""
    lines = ("open draw.yaml", "open workflows --port 8100 --no-browser", "open draw.yaml --device cuda")
    app.command(epilog=examples(*lines))(open)


@options.add_run_options("open")
def open(
    path: Annotated[
        Path, typer.Argument(metavar="[WORKFLOW|FOLDER]", help="A workflow (.yaml), or a folder of workflows.")
    ] = Path("."),
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="The port; 0 chooses a free one.")] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address without opening a browser.")
    ] = False,
    plugin: options.Plugins = None,
    no_plugins: options.NoPlugins = False,
    allow_code: options.AllowCode = None,
    limit: options.LimitSettings = None,
    **settings: Any,
) -> None:
    """Show workflows in the browser: the graph beside its YAML, problems, runs, previews and pictures.

    The file on disk is the state: the page follows each change that an editor saves. Runs go to runs/ in the current
    folder, like those of 'run'. The page is served on this machine only, at an address with a secret token.
    Ctrl-C ends it.
    """
    from guidegraph.commands.shared.run_settings import RunSettings, apply_limits
    from guidegraph_page.folder import WorkflowFolder
    from guidegraph_page.serve import serve

    with apply_limits(limit):
        problems: list[Problem] = []
        config = RunSettings(settings).parse(problems)
        if problems:
            raise WorkflowError(problems)
        config = replace(config, policy=Policy(grants=options.make_grants(None, None, allow_code)))
        manager = require_all_plugins(select_plugins(plugin, no_plugins))
        folder = WorkflowFolder.open(path)
        serve(folder, manager, config, port, not no_browser, print_text, print_note)

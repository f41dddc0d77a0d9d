"""``set``: change one value of a workflow's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guidegraph.commands.shared import options
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.commands.shared.printing import print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.graph.trust.policy import Policy
from guidegraph_runtime.printing import visible_line


@app.command(
    context_settings={"ignore_unknown_options": True},  # "-1" is a value
    epilog=examples(
        "set draw.yaml params.scale.default 6",
        "set draw.yaml nodes.sample.body.guided.in.scale params.scale",
        "set draw.yaml nodes.scheduler.with.spacing trailing",
        "set draw.yaml nodes.noise.with.shape '[4, 32, 32]'",
        "set draw.yaml params.eta '{default: 0.5, help: \"noise of DDIM\"}'",
    ),
)
def set(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="A workflow (.yaml).")],
    path: Annotated[
        str, typer.Argument(metavar="PATH", show_default=False, help="What to set, as error messages name it.")
    ],
    value: Annotated[
        str, typer.Argument(metavar="VALUE", show_default=False, help="A link, a number or a text; lists as in YAML.")
    ],
    plugin: options.Plugins = None,
    no_plugins: options.NoPlugins = False,
    allow_code: options.AllowCode = None,
    limit: options.LimitSettings = None,
) -> None:
    """Set one value of a workflow, or one link, and print the changed lines.

    Only the characters concerned change: comments, order and layout stay. The result is checked as 'validate' does. If
    it is not valid, the file stays as it was, and the exit code is 2.

    VALUE is a number, true, false or null, else a text or a link. '[…]', '{…}' and '"…"' are read as YAML, so '"6"' is
    a text. Under 'in' a link takes the place of a literal under 'with', and the other way round. To add a node or a
    parameter, set it to a mapping.
    """
    from guidegraph.commands.shared.run_settings import apply_limits
    from guidegraph.edit import WorkflowEditor, parse_value, set_value

    with apply_limits(limit):
        registry = require_plugins(select_plugins(plugin, no_plugins)).registry
        policy = Policy(grants=options.make_grants(None, None, allow_code))
        change = WorkflowEditor(file, registry=registry, policy=policy).apply(set_value, path, parse_value(value))
    for line in change.diff().splitlines() or [f"{file}: unchanged"]:
        print_text(visible_line(line))

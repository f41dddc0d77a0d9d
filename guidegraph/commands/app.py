"""The application with all of its commands."""

from __future__ import annotations

from guidegraph.commands import (
    draw,
    export,
    new_plugin,
    nodes,
    open,
    plan,
    plugins,
    report,
    run,
    schema,
    set,
    sweep,
    validate,
)
from guidegraph.commands.shared.root import app

COMMANDS = (run, open, sweep, export, validate, set, plan, draw, report, nodes, plugins, new_plugin, schema)
"""The modules of the commands, in the order of the help. Importing one registers its command."""

_ORDER = [command.__name__ for command in COMMANDS]
app.registered_commands.sort(key=lambda command: _ORDER.index(getattr(command.callback, "__module__", "")))

__all__ = ["COMMANDS", "app"]

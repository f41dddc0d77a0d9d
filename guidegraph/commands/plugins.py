"""``plugins``: list the plugins and their state."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import TYPE_CHECKING

from guidegraph.commands import load_commands
from guidegraph.commands.shared.options import Json, NoPlugins, Plugins
from guidegraph.commands.shared.printing import print_json, print_note, print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.graph.errors import suggest
from guidegraph.plugins.entry_points import DISABLE, PACKAGES
from guidegraph.plugins.manager import PluginManager
from guidegraph_runtime.printing import show_count

if TYPE_CHECKING:
    from guidegraph.plugins.manager import PluginStatus


@app.command(epilog=examples("plugins", "plugins --plugin my_nodes", "plugins --json"))
def plugins(json: Json = False, plugin: Plugins = None, no_plugins: NoPlugins = False) -> None:
    """List the plugins with all that they bring, and the reason for each that was not loaded.

    The exit code is 0 even if plugins failed; --json has the state of each.
    """
    selection = select_plugins(plugin, no_plugins)
    manager = PluginManager(selection.modules, entry_points=selection.installed)
    manager.add_commands(load_commands())  # all of them, as a plugin may not take the name of one
    for name in manager.unknown_disabled:
        print_note(f"warning: {DISABLE} names '{name}'; {suggest(name, manager.installed, 'installed plugins')}")
    if json:
        print_json(jsonlib.dumps([asdict(status) for status in manager.statuses], indent=2))
        return
    print_text("\n\n".join(map(_describe_plugin, manager.statuses)))


def _describe_plugin(status: PluginStatus) -> str:
    lines = [f"{status.name}  {status.distribution} {status.version}  {status.state}"]
    if status.reason:
        lines.append(f"  {status.reason}")
    if status.fix:
        lines.append(f"  to do: {status.fix}")
    lines += [f"  note: {note}" for note in status.notes]
    for noun, names in (
        ("command", PACKAGES.get(status.name, ())),
        ("node", status.nodes),
        ("type", status.types),
        ("output format", status.formats),
        ("condition field", status.condition_fields),
        ("checkpoint format", status.families),
    ):
        if names:
            lines.append(f"  {show_count(len(names), noun)}: {', '.join(names)}")
    if status.traceback:
        lines += [f"  | {line}" for line in status.traceback.rstrip().splitlines()]
    return "\n".join(lines)

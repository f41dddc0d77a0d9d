"""``schema``: the JSON Schema of workflows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from guidegraph.commands.shared.options import NoPlugins, Output, Plugins, write_or_print
from guidegraph.commands.shared.plugins import list_contributions
from guidegraph.commands.shared.printing import print_json
from guidegraph.commands.shared.root import app, examples, select_plugins

if TYPE_CHECKING:
    from guidegraph.plugins.manager import PluginManager


@app.command(epilog=examples("schema -o guidegraph.schema.json"))
def schema(output: Output = None, plugin: Plugins = None, no_plugins: NoPlugins = False) -> None:
    """Print the JSON Schema of workflows with all installed nodes, for an editor."""
    listing = list_contributions("schema", select_plugins(plugin, no_plugins), _describe)
    text = json.dumps(listing, indent=2, ensure_ascii=False)
    write_or_print(text + "\n", output, print_json)


def _describe(manager: PluginManager) -> dict[str, Any]:
    from guidegraph.graph.language.json_schema import json_schema

    return json_schema(manager.registry)

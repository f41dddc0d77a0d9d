"""``schema``: the JSON Schema of workflows."""

from __future__ import annotations

import json

from guidegraph.commands.shared.options import NoPlugins, Output, Plugins
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.commands.shared.printing import print_json, write_or_print
from guidegraph.commands.shared.root import app, examples, select_plugins


@app.command(epilog=examples("schema -o guidegraph.schema.json"))
def schema(output: Output = None, plugin: Plugins = None, no_plugins: NoPlugins = False) -> None:
    """Print the JSON Schema of workflows with the nodes that are installed, for an editor."""
    from guidegraph.graph.language.json_schema import json_schema

    registry = require_plugins(select_plugins(plugin, no_plugins)).registry
    text = json.dumps(json_schema(registry), indent=2, ensure_ascii=False)
    write_or_print(text + "\n", output, print_json)

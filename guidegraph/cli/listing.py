"""``plugins`` and ``schema``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from guidegraph.cli.errors import print_json, print_text, say
from guidegraph.cli.inspect import write_or_print
from guidegraph.cli.options import Chosen
from guidegraph.cli.plugins import loaded_plugins, required_plugins
from guidegraph.graph.errors import choices
from guidegraph.plugins.manager import DISABLE, PluginStatus


def schema_command(output: Path | None, plugins: Chosen) -> None:
    from guidegraph.graph.schema import json_schema

    text = json.dumps(json_schema(required_plugins(plugins).registry), indent=2, ensure_ascii=False)
    write_or_print(text + "\n", output, print_json)


def plugins_command(app: Any, as_json: bool, plugins: Chosen) -> None:
    manager = loaded_plugins(plugins)
    manager.add_commands(app)
    for name in manager.unknown_disabled:
        say(f"warning: {DISABLE} names '{name}'; {choices(name, manager.installed, 'installed plugins')}")
    if as_json:
        print_json(json.dumps([asdict(status) for status in manager.statuses], indent=2))
        return
    print_text("\n\n".join(map(_described, manager.statuses)))


def _described(status: PluginStatus) -> str:
    lines = [f"{status.name}  {status.distribution} {status.version}  {status.state}"]
    if status.reason:
        lines.append(f"  {status.reason}")
    if status.fix:
        lines.append(f"  to do: {status.fix}")
    lines += [f"  note: {note}" for note in status.notes]
    if status.nodes:
        lines.append(f"  {len(status.nodes)} nodes: {', '.join(status.nodes)}")
    if status.types:
        lines.append(f"  {len(status.types)} types: {', '.join(status.types)}")
    if status.traceback:
        lines += [f"  | {line}" for line in status.traceback.rstrip().splitlines()]
    return "\n".join(lines)

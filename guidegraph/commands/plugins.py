"""``plugins``: list the plugins and their state."""

from __future__ import annotations

import json as jsonlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from guidegraph.commands.shared.options import Json, NoPlugins, Plugins
from guidegraph.commands.shared.printing import print_json, print_note, print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.graph.errors import suggest
from guidegraph.plugins.selection import PluginSelection

if TYPE_CHECKING:
    from guidegraph.plugins.audit import Audit, AuditTarget
    from guidegraph.plugins.manager import PluginStatus

_encode = jsonlib.JSONEncoder(indent=2).encode
"""Bound at import, since a plugin may replace functions of the json module."""


@app.command(epilog=examples("plugins", "plugins --plugin my_nodes", "plugins --json"))
def plugins(json: Json = False, plugin: Plugins = None, no_plugins: NoPlugins = False) -> None:
    """List the plugins: what each contributes, and why a failed one was not loaded.

    The exit code is 0 even if plugins failed; --json has the state of each.
    """
    from guidegraph.plugins.entry_points import DISABLE
    from guidegraph.plugins.manager import PluginManager

    selection = select_plugins(plugin, no_plugins)
    audits = _audit_plugins(selection)
    refused = {target.name: audit.ended for target, audit in audits.items() if audit.ended}
    manager = PluginManager(selection.modules, entry_points=selection.installed, refused=refused)
    manager.add_commands(app)
    for name in manager.unknown_disabled:
        print_note(f"warning: {DISABLE} names '{name}'; {suggest(name, manager.installed, 'installed plugins')}")
    by_name = {target.name: audit for target, audit in audits.items()}
    if json:
        rows = [{**asdict(status), "audit": _audit_json(by_name.get(status.name))} for status in manager.statuses]
        print_json(_encode(rows))
        return
    print_text("\n\n".join(_describe_plugin(status, by_name.get(status.name)) for status in manager.statuses))


def _audit_plugins(plugins: PluginSelection) -> dict[AuditTarget, Audit]:
    """An audit of each plugin that a command would import, except those that ship with guidegraph."""
    from guidegraph import __version__ as version
    from guidegraph.plugins.audit import AuditTarget, audit_plugins
    from guidegraph.plugins.entry_points import is_imported, list_entry_points, read_disabled_plugins

    disabled = read_disabled_plugins()
    installed = {
        entry.name: AuditTarget(entry.name, entry.value)
        for entry in reversed(list_entry_points())
        if plugins.installed and entry.name not in disabled and is_imported(entry, version)
    }
    return audit_plugins([*installed.values(), *map(AuditTarget, plugins.modules)])


def _audit_json(audit: Audit | None) -> dict[str, Any] | None:
    return None if audit is None else {**asdict(audit), "seconds": round(audit.seconds, 3)}


def _describe_plugin(status: PluginStatus, audit: Audit | None) -> str:
    lines = [f"{status.name}  {status.distribution} {status.version}  {status.state}"]
    if status.reason:
        lines.append(f"  {status.reason}")
    if status.fix:
        lines.append(f"  to do: {status.fix}")
    lines += [f"  note: {note}" for note in status.notes]
    if audit is not None and audit.changes:
        lines.append("  its import changes the process:")
        lines += [f"    {kind}: {', '.join(names)}" for kind, names in audit.changes.items()]
    for noun, names in (("node", status.nodes), ("type", status.types)):
        if names:
            lines.append(f"  {len(names)} {noun}{'s' if len(names) > 1 else ''}: {', '.join(names)}")
    if status.traceback:
        lines += [f"  | {line}" for line in status.traceback.rstrip().splitlines()]
    return "\n".join(lines)

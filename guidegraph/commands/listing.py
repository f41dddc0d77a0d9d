"""``plugins`` and ``schema``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from guidegraph.commands.inspect import write_or_print
from guidegraph.commands.shared.errors import print_json, print_note, print_text
from guidegraph.commands.shared.options import PluginSelection
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.graph.errors import suggest
from guidegraph.plugins.audit import Audit, AuditTarget, audit_plugins
from guidegraph.plugins.entries import entry_points, is_imported
from guidegraph.plugins.manager import DISABLE, PluginManager, PluginStatus, read_disabled_plugins

_encode = json.JSONEncoder(indent=2).encode
"""Bound at import, since a plugin may replace functions of the json module."""


def schema_command(output: Path | None, plugins: PluginSelection) -> None:
    from guidegraph.graph.language.json_schema import json_schema

    text = json.dumps(json_schema(require_plugins(plugins).registry), indent=2, ensure_ascii=False)
    write_or_print(text + "\n", output, print_json)


def plugins_command(app: Any, as_json: bool, plugins: PluginSelection) -> None:
    audits = _audits(plugins)
    refused = {audited.name: audit.ended for audited, audit in audits.items() if audit.ended}
    manager = PluginManager(plugins.modules, entry_points=plugins.installed, refused=refused)
    manager.add_commands(app)
    for name in manager.unknown_disabled:
        print_note(f"warning: {DISABLE} names '{name}'; {suggest(name, manager.installed, 'installed plugins')}")
    by_name = {audited.name: audit for audited, audit in audits.items()}
    if as_json:
        rows = [{**asdict(status), "audit": _audit_json(by_name.get(status.name))} for status in manager.statuses]
        print_json(_encode(rows))
        return
    print_text("\n\n".join(_describe_plugin(status, by_name.get(status.name)) for status in manager.statuses))


def _audits(plugins: PluginSelection) -> dict[AuditTarget, Audit]:
    """An audit of each plugin that a command would import, except those that ship with guidegraph."""
    from guidegraph import __version__ as version

    disabled = read_disabled_plugins()
    installed = {
        entry.name: AuditTarget(entry.name, entry.value)
        for entry in reversed(entry_points())
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
    if status.nodes:
        lines.append(f"  {len(status.nodes)} nodes: {', '.join(status.nodes)}")
    if status.types:
        lines.append(f"  {len(status.types)} types: {', '.join(status.types)}")
    if status.traceback:
        lines += [f"  | {line}" for line in status.traceback.rstrip().splitlines()]
    return "\n".join(lines)

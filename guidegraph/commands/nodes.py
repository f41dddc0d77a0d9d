"""``nodes``: list the nodes, or the ports, settings and outputs of one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import typer

from guidegraph.commands.node_json import NodeRow, describe_node, format_default
from guidegraph.commands.shared.errors import ID, argument_problem
from guidegraph.commands.shared.options import Json, NoPlugins, Plugins
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.commands.shared.printing import print_json, print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.graph.errors import WorkflowError, suggest
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.registry import Registry
from guidegraph_runtime.printing import visible


@app.command(epilog=examples("nodes", "nodes guidance.cfg", "nodes scheduler.ddim --json", "nodes --markdown"))
def nodes(
    id: Annotated[
        str | None, typer.Argument(metavar="ID", help="One node, or a namespace.", show_default=False)
    ] = None,
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """List the nodes, or show the ports, settings and outputs of one."""
    from json import dumps

    from guidegraph.commands.nodes_markdown import render_node, render_nodes

    registry = require_plugins(select_plugins(plugin, no_plugins)).registry
    specs = _select_specs(id, registry)
    single = len(specs) == 1 and specs[0].id == id
    if json:
        rows = [describe_node(spec) for spec in specs]
        print_json(dumps(rows[0] if single else rows, indent=2))
    elif markdown:
        print_text(
            render_nodes(specs) if id is None else "\n\n".join(render_node(describe_node(spec)) for spec in specs)
        )
    elif single:
        _print_node(describe_node(specs[0]))
    else:
        _print_table(specs)


def _select_specs(id: str | None, registry: Registry) -> list[NodeSpec]:
    ids = sorted(registry.nodes)
    if id is None:
        return [registry.nodes[name] for name in ids]
    if id in registry.nodes:
        return [registry.nodes[id]]
    if members := [name for name in ids if name.startswith(f"{id}.")]:
        return [registry.nodes[name] for name in members]
    namespace = id.partition(".")[0]
    if reason := registry.failed.get(namespace):
        message = f"the plugin '{namespace}' did not load: {reason}"
    else:
        message = f"there is no node '{id}'; {suggest(id, ids, 'nodes')}"
    raise WorkflowError([argument_problem("unknown-node", message, ID)])


def _print_table(specs: Iterable[NodeSpec]) -> None:
    from rich.table import Table

    table = Table("node", "what it does", box=None, pad_edge=False)
    for spec in specs:
        table.add_row(_text(spec.id, "bold"), _text(spec.summary))
    _console().print(table)


def _print_node(row: NodeRow) -> None:
    from rich.table import Table

    console = _console()
    console.print(_text(row["id"], "bold"), _text(row["signature"]))
    console.print(_text(f"\n{row['doc']}\n"))
    for title in ("ports", "settings", "outputs"):
        if not row[title]:
            continue
        table = Table(title, "type", "default", "", box=None, pad_edge=False)
        for port in row[title]:
            about = "; ".join(filter(None, (port.get("limits"), port.get("doc"))))
            table.add_row(*map(_text, (port["name"], port["type"], format_default(port), about)))
        console.print(table)
        console.print()
    traits = [*row["traits"], *(f"batchable ({', '.join(row['batchable'])})" for _ in row["batchable"][:1])]
    console.print(_text(" · ".join([f"version {row['version']}", row["distribution"], *traits])))


def _console() -> Any:
    """A rich console; off a terminal it is wide enough that no row wraps, since a program reads one row per line."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=1000)


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(visible(text), style)

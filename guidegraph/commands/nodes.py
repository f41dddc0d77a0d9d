"""``nodes``: the list of nodes, or the ports, settings and outputs of one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from guidegraph.commands.shared.errors import ID, argument_problem, print_json, print_text
from guidegraph.commands.shared.options import PluginSelection
from guidegraph.commands.shared.plugins import require_plugins
from guidegraph.graph.docstrings import format_signature, parameter_docs
from guidegraph.graph.errors import WorkflowError, suggest
from guidegraph.graph.node import NodeSpec, Port
from guidegraph.graph.registry import Registry
from guidegraph.graph.types import takes_literal
from guidegraph_runtime.printing import visible

NodeRow = dict[str, Any]


def nodes_command(id: str | None, as_json: bool, markdown: bool, plugins: PluginSelection) -> None:
    registry = require_plugins(plugins).registry
    specs = _select_specs(id, registry)
    single = len(specs) == 1 and specs[0].id == id
    if as_json:
        rows = [describe_node(spec) for spec in specs]
        print_json(json.dumps(rows[0] if single else rows, indent=2))
    elif markdown:
        from guidegraph.commands.nodes_page import render_node, render_nodes

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


def describe_node(spec: NodeSpec) -> NodeRow:
    """A node's full description, as JSON."""
    docs = parameter_docs(spec)
    traits = [name for name in ("io", "host", "runtime") if getattr(spec, name)] + ([] if spec.pure else ["impure"])
    return {
        "id": spec.id,
        "signature": format_signature(spec),
        "doc": spec.doc,
        "ports": [_port(p, docs) for p in spec.inputs.values()],
        "settings": [_port(p, docs) for p in spec.settings.values()],
        "outputs": [{"name": name, "type": str(kind)} for name, kind in spec.outputs.items()],
        "traits": traits,
        "batchable": list(spec.batchable),
        "version": spec.version,
        "distribution": spec.distribution,
    }


def _port(port: Port, docs: dict[str, str]) -> NodeRow:
    row: NodeRow = {
        "name": port.name,
        "type": str(port.type),
        "required": port.required,
        "literal": takes_literal(port.type),
    }
    if not port.required:
        row["default"] = (
            port.default if isinstance(port.default, (bool, int, float, str, type(None))) else repr(port.default)
        )
    if limits := _limits(port):
        row["limits"] = limits
    return row | ({"doc": docs[port.name]} if port.name in docs else {})


_LIMIT_FORMATS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "pattern": "like {}",
}


def _limits(port: Port) -> str:
    """The bounds and choices of a port's literals."""
    if not takes_literal(port.type):
        return ""
    try:
        schema = port.adapter.json_schema()
    except Exception:  # a type without a JSON schema
        return ""
    limits = []
    for subschema in (schema, *schema.get("anyOf", ())):
        if "enum" in subschema:
            limits.append(" | ".join(map(str, subschema["enum"])))
        limits += [format_.format(subschema[key]) for key, format_ in _LIMIT_FORMATS.items() if key in subschema]
    return ", ".join(dict.fromkeys(limits))


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


def format_default(port: NodeRow) -> str:
    """The default as written in YAML, or "required"; "" for an output."""
    if "required" not in port:
        return ""
    return "required" if port["required"] else json.dumps(port["default"], ensure_ascii=False)


def _console() -> Any:
    """A rich console; off a terminal it is wide enough that no row wraps, since a program reads one row per line."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=1000)


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(visible(text), style)

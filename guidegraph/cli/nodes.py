"""``nodes``: the list of nodes, and what one of them takes and gives."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from guidegraph.cli.errors import ID, argument_problem, print_json, print_text
from guidegraph.cli.options import Chosen
from guidegraph.cli.plugins import required_plugins
from guidegraph.graph.docstrings import parameter_docs, signature
from guidegraph.graph.errors import WorkflowError, choices
from guidegraph.graph.node import NodeSpec, Port
from guidegraph.graph.registry import Registry
from guidegraph.graph.types import takes_literal
from guidegraph_runtime.say import visible

Row = dict[str, Any]


def nodes_command(id: str | None, as_json: bool, markdown: bool, plugins: Chosen) -> None:
    registry = required_plugins(plugins).registry
    found = _chosen(id, registry)
    one = len(found) == 1 and found[0].id == id
    if as_json:
        rows = [described(spec) for spec in found]
        print_json(json.dumps(rows[0] if one else rows, indent=2))
    elif markdown:
        from guidegraph.cli.markdown import page, section

        print_text(page(found) if id is None else "\n\n".join(section(described(spec)) for spec in found))
    elif one:
        _print_one(described(found[0]))
    else:
        _print_table(found)


def _chosen(id: str | None, registry: Registry) -> list[NodeSpec]:
    known = sorted(registry.nodes)
    if id is None:
        return [registry.nodes[name] for name in known]
    if id in registry.nodes:
        return [registry.nodes[id]]
    if inside := [name for name in known if name.startswith(f"{id}.")]:
        return [registry.nodes[name] for name in inside]
    namespace = id.partition(".")[0]
    if reason := registry.failed.get(namespace):
        message = f"the plugin '{namespace}' did not load: {reason}"
    else:
        message = f"there is no node '{id}'; {choices(id, known, 'nodes')}"
    raise WorkflowError([argument_problem("unknown-node", message, ID)])


def described(spec: NodeSpec) -> Row:
    """All there is to say of a node, as JSON."""
    docs = parameter_docs(spec)
    traits = [name for name in ("io", "host", "runtime") if getattr(spec, name)] + ([] if spec.pure else ["impure"])
    return {
        "id": spec.id,
        "signature": signature(spec),
        "doc": spec.doc,
        "ports": [_port(p, docs) for p in spec.inputs.values()],
        "settings": [_port(p, docs) for p in spec.settings.values()],
        "outputs": [{"name": name, "type": str(kind)} for name, kind in spec.outputs.items()],
        "traits": traits,
        "batchable": list(spec.batchable),
        "version": spec.version,
        "distribution": spec.distribution,
    }


def _port(port: Port, docs: dict[str, str]) -> Row:
    row: Row = {
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


_WORDS = {
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
    """Which literals a port takes, beyond its type: bounds and choices."""
    if not takes_literal(port.type):
        return ""
    try:
        schema = port.adapter.json_schema()
    except Exception:  # a type of which pydantic knows no JSON
        return ""
    found = []
    for part in (schema, *schema.get("anyOf", ())):
        if "enum" in part:
            found.append(" | ".join(map(str, part["enum"])))
        found += [words.format(part[key]) for key, words in _WORDS.items() if key in part]
    return ", ".join(dict.fromkeys(found))


def _print_table(found: Iterable[NodeSpec]) -> None:
    from rich.table import Table

    table = Table("node", "what it does", box=None, pad_edge=False)
    for spec in found:
        table.add_row(_text(spec.id, "bold"), _text(spec.summary))
    _console().print(table)


def _print_one(row: Row) -> None:
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
            table.add_row(*map(_text, (port["name"], port["type"], default_of(port), about)))
        console.print(table)
        console.print()
    traits = [*row["traits"], *(f"batchable ({', '.join(row['batchable'])})" for _ in row["batchable"][:1])]
    console.print(_text(" · ".join([f"version {row['version']}", row["distribution"], *traits])))


def default_of(port: Row) -> str:
    """The default as it is written in YAML, or that there is none."""
    if "required" not in port:
        return ""
    return "required" if port["required"] else json.dumps(port["default"], ensure_ascii=False)


def _console() -> Any:
    """Wide enough for any line where nobody looks at it: a program reads one row a line."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=1000)


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(visible(text), style)

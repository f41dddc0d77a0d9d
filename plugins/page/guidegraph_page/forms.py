"""Forms of the page: the kind of field of each port, setting and parameter, and its value as text."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

from guidegraph.graph.ir import Parameter
from guidegraph.graph.language.yaml_tree import Scalar, Tree, to_python
from guidegraph.graph.node import NodeSpec, Registry
from guidegraph.graph.node_json import describe_node
from guidegraph.graph.port import Port
from guidegraph.graph.types import SequenceOf, takes_literal

Row: TypeAlias = dict[str, Any]


def describe_node_for_page(spec: NodeSpec, registry: Registry) -> Row:
    """A node's description with the field of each port and setting that takes a literal.

    ``alternatives``: the ids of its chapter whose nodes have the same outputs.
    """
    row = describe_node(spec)
    chapter = spec.id.partition(".")[0]
    row["alternatives"] = sorted(
        other.id
        for other in registry.nodes.values()
        if other.id.partition(".")[0] == chapter and other.outputs == spec.outputs
    )
    for port in (*row["ports"], *row["settings"]):
        declared = spec.ports.get(port["name"])
        if port["literal"] and declared is not None:
            port["field"] = describe_field(declared)
    return row


def describe_field(port: Port) -> Row:
    """The kind of a port's field: ``flag``, ``choice`` with its options, ``number``, ``text`` or ``yaml``."""
    alternatives = set(port.type.alternatives)
    if options := _list_options(port):
        return {"kind": "choice", "options": options}
    if alternatives == {bool}:
        return {"kind": "flag"}
    if alternatives <= {int, float}:
        return {"kind": "number"}
    if alternatives & {str, Path}:
        return {"kind": "text"}
    return {"kind": "yaml"}


def _list_options(port: Port) -> list[str]:
    """The only values that a port takes, as texts; empty if there are others."""
    if not takes_literal(port.type) or any(isinstance(a, SequenceOf) for a in port.type.alternatives):
        return []
    if not set(port.type.alternatives) <= {str} and not any(
        isinstance(a, type) and issubclass(a, Enum) for a in port.type.alternatives
    ):
        return []
    try:
        schema = port.adapter.json_schema()
    except Exception:  # a type without a JSON schema
        return []
    branches = [branch for branch in schema.get("anyOf", [schema]) if branch.get("type") != "null"]
    if not all("enum" in branch or "const" in branch for branch in branches):
        return []
    return [str(option) for branch in branches for option in branch.get("enum", [branch.get("const")])]


def describe_parameter(parameter: Parameter, default: Tree | None) -> Row:
    """A parameter with its field and its default as the text that ``--set`` would take."""
    return {
        "name": parameter.name,
        "type": str(parameter.port.type),
        "help": parameter.help,
        "required": parameter.required,
        "default": "" if default is None else format_tree(default),
        "line": parameter.mark.line,
        "field": describe_field(parameter.port) if takes_literal(parameter.port.type) else None,
    }


def format_tree(tree: Tree) -> str:
    """A literal as text: a scalar as written, anything else as YAML on one line."""
    return tree.text if isinstance(tree, Scalar) else json.dumps(to_python(tree), ensure_ascii=False)

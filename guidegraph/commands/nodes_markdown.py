"""The nodes as a page of Markdown: an index, then each node, by component."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from guidegraph.graph.node import NodeSpec
from guidegraph.graph.node_json import NodeRow, describe_node, format_default

COMMAND = "guidegraph nodes --markdown --no-plugins > docs/reference/nodes.md"
HEAD = f"""# Nodes

The nodes by component. A port is wired with `in`; a setting is given with `with`, or wired too. Those of plugins are
listed by `guidegraph nodes`. This page is written from signatures and docstrings, by `{COMMAND}`."""
OURS = "guidegraph.nodes."


def render_nodes(specs: Sequence[NodeSpec]) -> str:
    """The whole page. ``specs`` are sorted by id."""
    groups = [(name, list(group)) for name, group in groupby(specs, key=lambda spec: spec.id.partition(".")[0])]
    index = []
    for name, group in groups:
        # The anchor of a node's heading is its id without dots.
        links = [f"[{spec.id.partition('.')[2]}](#{spec.id.replace('.', '')})" for spec in group]
        index.append(f"- [{name}](#{name}): {', '.join(links)}")
    parts = [HEAD, "\n".join(index)]
    for name, group in groups:
        parts.append("\n\n".join(filter(None, (f"## {name}", _describe_component(name, group)))))
        parts += [render_node(describe_node(spec)) for spec in group]
    return "\n\n".join(parts)


def render_node(row: NodeRow) -> str:
    """One node: its docstring, then a table of ports, settings and outputs."""
    lines = [f"### {row['id']}", "", row["doc"] or "It has no docstring.", ""]
    lines += ["| | name | type | default | |", "| --- | --- | --- | --- | --- |"]
    for kind in ("port", "setting", "output"):
        for port in row[f"{kind}s"]:
            about = "; ".join(filter(None, (port.get("limits"), port.get("doc"))))
            cells = (kind, port["name"], f"`{port['type']}`", format_default(port), about)
            escaped = (text.replace("|", "\\|") for text in cells)
            lines.append("|" + "".join(f" {text} |" if text else " |" for text in escaped))
    if traits := _format_traits(row):
        lines += ["", traits]
    return "\n".join(lines)


def _describe_component(namespace: str, specs: Iterable[NodeSpec]) -> str:
    """A component's description: the first docstring line of the module named after it, or of its only module."""
    modules = {spec.function.__module__ for spec in specs}
    matching = sorted((name for name in modules if name.rpartition(".")[2].startswith(namespace)), key=len)
    foreign = [name for name in modules if not name.startswith(OURS)]
    candidates = matching or (foreign if len(modules) == 1 else [])
    doc = getattr(sys.modules.get(candidates[0]), "__doc__", None) if candidates else None
    return (doc or "").strip().partition("\n")[0]


def _format_traits(row: dict[str, Any]) -> str:
    """The traits in which a node differs from most others, as one line; "" if there are none."""
    phrases = {
        "impure": "not pure: it runs each time",
        "io": "may wait for disk or network",
        "host": "runs in Python, not in a graph",
    }
    traits = [phrases[trait] for trait in row["traits"] if trait in phrases]
    if row["batchable"]:
        traits.append(f"calls may become one along {', '.join(row['batchable'])}")
    if row["version"] != "1":
        traits.append(f"version {row['version']}")
    return f"*{'; '.join(traits)}*" if traits else ""

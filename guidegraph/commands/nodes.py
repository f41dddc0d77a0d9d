"""``nodes``: list the nodes, or the ports, settings and outputs of one."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guidegraph.commands.shared.errors import ID, argument_problem
from guidegraph.commands.shared.options import Json, NoPlugins, Plugins
from guidegraph.commands.shared.plugins import list_contributions, require_all_plugins, require_plugins
from guidegraph.commands.shared.printing import print_json, print_text
from guidegraph.commands.shared.root import app, examples, select_plugins
from guidegraph.graph.errors import WorkflowError, suggest
from guidegraph.graph.node import NodeSpec
from guidegraph.graph.node_json import NodeRow, describe_node, format_default
from guidegraph.plugins.entry_points import PluginSelection
from guidegraph_runtime.printing import visible

if TYPE_CHECKING:
    pass


@app.command(
    epilog=examples(
        "nodes", "nodes guidance.cfg", "nodes --search rescale", "nodes scheduler.ddim --json", "nodes --markdown"
    )
)
def nodes(
    id: Annotated[
        str | None, typer.Argument(metavar="ID", help="One node, or a namespace.", show_default=False)
    ] = None,
    search: Annotated[
        str, typer.Option("--search", metavar="WORD", help="Only nodes with these words.", show_default=False)
    ] = "",
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    plugin: Plugins = None,
    no_plugins: NoPlugins = False,
) -> None:
    """List the nodes, or show the ports, settings and outputs of one."""

    selection = select_plugins(plugin, no_plugins)
    summaries: dict[str, str] = list_contributions(
        "summaries",
        selection,
        lambda manager: {id: spec.summary for id, spec in sorted(manager.registry.nodes.items())},
    )
    ids = _select_ids(id, list(summaries), selection)
    if search:
        ids = _search(search, ids, summaries)
    single = ids == [id]
    if markdown and id is None:
        specs = require_all_plugins(selection).registry.nodes
        print_text(render_nodes([specs[name] for name in ids]))
    elif json or markdown or single:
        described: dict[str, NodeRow] = list_contributions(
            "nodes", selection, lambda manager: {id: describe_node(spec) for id, spec in manager.registry.nodes.items()}
        )
        rows = [described[name] for name in ids]
        if json:
            print_json(dumps(rows[0] if single else rows, indent=2))
        elif markdown:
            print_text("\n\n".join(map(render_node, rows)))
        else:
            _print_node(rows[0])
    else:
        _print_table((name, summaries[name]) for name in ids)


def _select_ids(id: str | None, ids: list[str], selection: PluginSelection) -> list[str]:
    """All ids, or the one ``id``, or those of the namespace ``id``."""
    if id is None or id in ids:
        return ids if id is None else [id]
    if members := [name for name in ids if name.startswith(f"{id}.")]:
        return members
    namespace = id.partition(".")[0]
    reason = require_plugins(selection).registry.failed.get(namespace)
    members = [name for name in ids if name.startswith(f"{namespace}.")]
    if reason and not members:
        message = f"the plugin '{namespace}' did not load: {reason}"
    else:
        same = [name for name in ids if id.lower() in name.lower()][:8]  # `rescale` for `guidance.rescale`
        hint = f"did you mean {' or '.join(map(repr, same))}?" if same else suggest(id, ids, "nodes")
        message = f"there is no node '{id}'; {hint}; guidegraph nodes --search WORD finds nodes by a word"
        message += f"; others are missing: the plugin '{namespace}' could not be loaded: {reason}" if reason else ""
    raise WorkflowError([argument_problem("unknown-node", message, ID)])


def _search(text: str, ids: list[str], summaries: dict[str, str]) -> list[str]:
    """The ids whose text has all words, in any case: in the id, or in the line about the node."""
    words = text.lower().split()
    if matches := [id for id in ids if all(word in f"{id} {summaries[id]}".lower() for word in words)]:
        return matches
    message = f"no node has '{text}' in its id or its summary; guidegraph nodes lists all {len(ids)}"
    raise WorkflowError([argument_problem("unknown-node", message, "--search")])


def _print_table(rows: Iterable[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table("node", "what it does", box=None, pad_edge=False)
    for id, summary in rows:
        table.add_row(_text(id, "bold"), _text(summary))
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
    if row["source"]:
        console.print(_text(row["source"]), soft_wrap=True)


def _console() -> Any:
    """A rich console; off a terminal it is wide enough that no row wraps, since a program reads one row per line."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=1000)


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text(visible(text), style)


COMMAND = "guidegraph nodes --markdown --no-plugins > docs/reference/nodes.md"
HEAD = f"""# Nodes

The nodes by component. A port is wired with `in`; a setting is given with `with`, or wired too. Those of other
projects' plugins are listed by `guidegraph nodes`. This page is written from signatures and docstrings, by
`{COMMAND}`."""
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

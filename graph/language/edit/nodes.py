"""Adding, removing, renaming and moving nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guidegraph.graph.language.edit.blocks import cut_entry, paste_entry, take_entry
from guidegraph.graph.language.edit.document import Document, find_value, refuse
from guidegraph.graph.language.edit.entries import INDENT, insert_entry, replace_key
from guidegraph.graph.language.edit.links import (
    RESERVED,
    Block,
    Link,
    block_path,
    find_definer,
    links_to_node,
    list_links,
    relink,
)
from guidegraph.graph.language.edit.paths import Location, locate_value
from guidegraph.graph.language.edit.render import plain_text, render_entry, to_tree
from guidegraph.graph.language.edit.values import remove_step, render_value, set_value, unquote_links, usual_quote
from guidegraph.graph.language.yaml_tree import Tree, YamlMapping, shorten

LINE_LENGTH = 120
MAX_NAMED = 8


def add_node(
    document: Document,
    name: str,
    use: str,
    inputs: Mapping[str, str | Sequence[str]] | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    block: str = "nodes",
    after: str = "",
) -> Document:
    """Add a node to a block: ``nodes``, or a loop's body such as ``nodes.sample.body``.

    inputs: a link or a list of links by port. settings: Python values by setting. after: the name of the node in that
    block to write it after; by default the last. Raises ``WorkflowError`` if the name is taken or the block does not
    exist.
    """
    location = locate_block(document, block)
    check_new_name(document, name, location)
    return write_node(document, block, name, make_node(use, inputs or {}, settings or {}), after)


def write_node(document: Document, block: str, name: str, tree: YamlMapping, after: str = "") -> Document:
    """Write a new node into a block, after the node ``after`` or at the end."""
    location = locate_block(document, block)
    parent = location.tree
    if not isinstance(parent, YamlMapping) or not parent.items:
        return set_value(document, f"{block}.{name}", tree)
    names = [key.text for key, _ in parent.items]
    if after and after not in names:
        refuse(location.mark, "unknown-path", f"no node '{shorten(after)}' to write it after", f"{block}.{after}")
    order = [*names[: names.index(after) + 1], name] if after else []
    return document.replace(insert_entry(document, parent, name, _format_node(document, parent, name, tree), order))


def make_node(use: str, inputs: Mapping[str, str | Sequence[str]], settings: Mapping[str, Any]) -> YamlMapping:
    """A node as a tree; its links are written without quotes."""
    node: dict[str, Any] = {"use": plain_text(use)}
    if inputs:
        node["in"] = {
            port: plain_text(links) if isinstance(links, str) else list(map(plain_text, links))
            for port, links in inputs.items()
        }
    if settings:
        node["with"] = dict(settings)
    tree = to_tree(node)
    assert isinstance(tree, YamlMapping)
    return tree


def _format_node(document: Document, parent: YamlMapping, name: str, tree: YamlMapping) -> list[str]:
    """A node on one line, or on one for each key if a single line would be too long."""
    line = render_value(document, "node", tree, None, flow=parent.flow)
    if parent.flow or document.column(parent.items[0][0].span[0]) + len(f"{name}: {line}") <= LINE_LENGTH:
        return [line]
    lines = [""]
    indent = " " * INDENT
    node = unquote_links(document, tree)
    assert isinstance(node, YamlMapping)
    column = document.column(parent.items[0][0].span[0]) + INDENT
    for key, value in node.items:
        line = render_entry(key, value, flow=False, quote=usual_quote(document))
        if isinstance(value, YamlMapping) and column + len(line) > LINE_LENGTH:
            entries = [render_entry(*entry, flow=False, quote=usual_quote(document)) for entry in value.items]
            lines += [f"{indent}{key.text}:", *(2 * indent + entry for entry in entries)]
        else:
            lines.append(indent + line)
    return lines


def remove_node(document: Document, path: str) -> Document:
    """Remove a node. Raises ``WorkflowError`` with the links to it, if there are any."""
    location = locate_node(document, path)
    block, name = node_block(location)
    links = [link for link in links_to_node(document, block, name) if not link.is_inside(path)]
    if links:
        refuse_linked(location, links, "remove or change these links first")
    return document.replace(remove_step(document, location.steps))


def rename_node(document: Document, path: str, name: str) -> Document:
    """Rename a node and change all links to it. Raises ``WorkflowError`` if the name is taken."""
    location = locate_node(document, path)
    block, old = node_block(location)
    if name == old:
        return document
    check_new_name(document, name, location)
    step = location.steps[-1]
    assert step.key is not None
    replacements = replace_key(document, step.key, step.value, name)
    replacements += [
        relink(document, link, name + link.scalar.text.removeprefix(old))
        for link in links_to_node(document, block, old)
    ]
    return document.replace(replacements)


def move_node(document: Document, path: str, block: str) -> Document:
    """Move a node to the end of another block: into a loop's body (``nodes.sample.body``), or out of it (``nodes``).

    The comment lines directly above it move along. Raises ``WorkflowError`` if nodes outside of that block link to it.
    """
    location, target = locate_node(document, path), locate_block(document, block)
    if f"{block}.".startswith(f"{path}."):
        refuse(location.mark, "bad-move", "a node cannot move into itself", path)
    home, name = node_block(location)
    new_home = _block_of(target.names)
    if home == new_home:
        return document
    outside = [
        link
        for link in links_to_node(document, home, name)
        if link.block[: len(new_home)] != new_home and not link.is_inside(path)
    ]
    if outside:
        refuse_linked(location, outside, f"only links inside '{shorten(block)}' could follow it")
    check_new_name(document, name, target, moved=location)
    _check_loop_links(document, location, home, new_home)
    entry = take_entry(document, location.steps[-1])
    return paste_entry(cut_entry(document, location.steps, entry), block, entry)


def _check_loop_links(document: Document, location: Location, home: Block, new_home: Block) -> None:
    """Raise ``WorkflowError`` if a link of a node to a carry or a loop value would mean another loop there."""
    for link in list_links(document):
        if not link.is_inside(location.path) or link.head not in ("carry", "loop"):
            continue
        before = find_definer(document, link.block, link)
        if before is None or len(before) > len(home):
            continue
        after = find_definer(document, new_home, link)
        if after is not None and after != before:
            message = f"'{link.scalar.text}' is a value of the loop '{before[-1]}', and would be one of '{after[-1]}'"
            refuse(location.mark, "bad-move", f"{message}: rename that first", location.path)


def locate_block(document: Document, path: str) -> Location:
    """Follow the path of a block. Raises ``WorkflowError`` if it leads elsewhere."""
    location = locate_value(document, path)
    if location.kind != "group" or location.names[-1] not in ("nodes", "body"):
        message = f"'{shorten(path)}' is not a block of nodes: 'nodes', or a loop's body"
        refuse(location.mark, "unknown-path", message, shorten(path))
    return location


def locate_node(document: Document, path: str) -> Location:
    """Follow the path of a node. Raises ``WorkflowError`` if it leads elsewhere."""
    location = locate_value(document, path)
    if location.kind != "node":
        refuse(location.mark, "unknown-path", f"'{shorten(path)}' is not the path of a node", shorten(path))
    return location


def node_block(location: Location) -> tuple[Block, str]:
    """A node's block and name."""
    return _block_of(location.names[:-1]), location.names[-1]


def _block_of(names: Sequence[str]) -> Block:
    return tuple(names[1:][::2])


def check_new_name(document: Document, name: str, location: Location, moved: Location | None = None) -> None:
    """Raise ``WorkflowError`` if a node at ``location`` cannot have this name.

    moved: the node's present location, which does not count.
    """
    path = shorten(location.path)
    if not name.isidentifier() or name in RESERVED:
        reason = "it is reserved" if name in RESERVED else "expected letters, digits and '_'"
        refuse(location.mark, "bad-name", f"'{shorten(name)}' cannot be the name of a node: {reason}", path)
    names = location.names if location.kind == "group" else location.names[:-1]
    block = _block_of(names)
    for other, other_path in list_nodes(document):
        nested = other[:-1][: len(block)] == block or block[: len(other) - 1] == other[:-1]
        if other[-1] == name and nested and (moved is None or other_path != moved.path):
            refuse(location.mark, "name-taken", f"there is a node '{shorten(name)}' already: {other_path}", path)


def list_nodes(document: Document) -> list[tuple[Block, str]]:
    """All nodes of a workflow, loops before the nodes in them: the loops' names and its own, and the path."""
    return _list_in_block(find_value(document.root, "nodes"), ())


def _list_in_block(tree: Tree | None, block: Block) -> list[tuple[Block, str]]:
    nodes: list[tuple[Block, str]] = []
    for key, node in tree.items if isinstance(tree, YamlMapping) else ():
        nodes.append(((*block, key.text), f"{block_path(block)}.{key.text}"))
        nodes += _list_in_block(find_value(node, "body"), (*block, key.text))
    return nodes


def refuse_linked(location: Location, links: Sequence[Link], remedy: str) -> None:
    """Raise ``WorkflowError`` that names links to a node."""
    name = location.names[-1]
    paths = [link.path for link in links]
    more = f", … ({len(paths)} in all)" if len(paths) > MAX_NAMED else ""
    message = f"'{shorten(name)}' is linked from {', '.join(map(shorten, paths[:MAX_NAMED]))}{more}; {remedy}"
    refuse(location.mark, "still-linked", message, shorten(location.path))

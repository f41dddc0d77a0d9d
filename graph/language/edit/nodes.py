"""Adding, removing, renaming and moving nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guidegraph.graph.errors import Mark
from guidegraph.graph.language.edit.document import (
    WHITE_SPACE,
    Document,
    Replacement,
    find_value,
    plain_text,
    refuse,
    render,
    render_entry,
    to_tree,
)
from guidegraph.graph.language.edit.entries import (
    INDENT,
    RESERVED,
    Block,
    Link,
    block_path,
    find_definer,
    has_comment,
    insert_entry,
    links_to_node,
    list_links,
    relink,
    remove_item,
    replace_key,
    replace_value,
)
from guidegraph.graph.language.edit.paths import Location, PathStep, locate_value
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


@dataclass(frozen=True)
class Entry:
    """An entry of a mapping as text. lines: of the value, those after the first indented relative to the key.

    comments: the comment lines above. start: the offset of the first of these lines. mark: the key's position.
    """

    name: str
    value: Tree
    lines: tuple[str, ...]
    comments: tuple[str, ...]
    start: int
    mark: Mark
    has_comment: bool


def take_entry(document: Document, step: PathStep) -> Entry:
    """The text of an entry with the comments in it and those directly above."""
    key, value, mapping = step.key, step.value, step.collection
    assert key is not None, "an item of a list has no name"
    start, end = key.span[0], document.value_end(value)
    commented = has_comment(document, (start, document.line_end(end)))
    if mapping.flow:
        commented = has_comment(document, (start, end))
        lines = _lines(document, value.span[0], end, document.column(start))
        if len(lines) > 1:  # lines within braces may begin anywhere
            lines = (
                [lines[0], *(" " * INDENT + line.lstrip(" \t") for line in lines[1:])]
                if commented
                else [render(value, flow=True, quote="")]
            )
        return Entry(key.text, value, tuple(lines), (), start, key.mark, commented)
    column = document.column(start)
    gap = document.text[key.span[1] : value.span[0]]
    colon = key.span[1] + gap.index(":") + 1
    lines = _lines(document, colon, document.line_end(end), column)
    comments: list[str] = []
    first = document.line_start(start)
    while first > 0:  # the comment lines directly above, at the key's column
        above = document.line_start(first - 1)
        line = document.text[above : document.line_end(above)]
        if not line[column:].startswith("#") or line[:column].strip():
            break
        comments.insert(0, line[column:])
        first = above
    lines[0] = lines[0].strip(WHITE_SPACE)
    return Entry(key.text, value, tuple(lines), tuple(comments), first, key.mark, commented)


def _lines(document: Document, start: int, end: int, column: int) -> list[str]:
    """The lines of a span; those after the first without the indentation of their key."""
    first, *following = document.text[start:end].splitlines() or [""]
    return [first, *(line[min(column, len(line) - len(line.lstrip(" "))) :] for line in following)]


def cut_entry(document: Document, steps: tuple[PathStep, ...], entry: Entry) -> Document:
    """Remove an entry with the comments that ``take_entry`` took."""
    step = steps[-1]
    if step.collection.flow:
        return document.replace(remove_step(document, steps))
    if len(step.collection.items) == 1:
        document = document.replace([Replacement(entry.start, document.line_start(step.collection.span[0]), "")])
        return document.replace(remove_step(document, locate_value(document, ".".join(s.name for s in steps)).steps))
    return document.replace(remove_item(document, step.collection, step.index, entry.start))


def paste_entry(document: Document, path: str, entry: Entry, after: str = "") -> Document:
    """Add an entry to the mapping at a path, after the entry ``after``, by default at the end."""
    location = locate_value(document, path)
    mapping = location.tree
    if not isinstance(mapping, YamlMapping) or not mapping.items:
        flow = any(step.collection.flow for step in location.steps)
        return document.replace(_paste_as_only(document, location.steps[-1], entry, flow))
    names = [key.text for key, _ in mapping.items]
    order = [*names[: names.index(after) + 1], entry.name] if after else []
    if mapping.flow:
        return document.replace(insert_entry(document, mapping, entry.name, _to_flow(document, entry), order))
    return document.replace(insert_entry(document, mapping, entry.name, entry.lines, order, entry.comments))


def _paste_as_only(document: Document, step: PathStep, entry: Entry, flow: bool) -> list[Replacement]:
    key = step.key
    assert key is not None, "a block is an entry of a mapping"
    name = render(plain_text(entry.name), flow=flow, quote="")
    if flow:
        return replace_value(document, key, step.value, f"{{{name}: {_to_flow(document, entry)}}}")
    indent = " " * (document.column(key.span[0]) + INDENT)
    first = f"{name}: {entry.lines[0]}".rstrip()
    text = document.newline.join(indent + line if line else "" for line in (*entry.comments, first, *entry.lines[1:]))
    start = key.span[1] + document.text[key.span[1] : step.value.span[0]].index(":") + 1
    return [Replacement(start, document.value_end(step.value), f"{document.newline}{text}")]


def _to_flow(document: Document, entry: Entry) -> str:
    if len(entry.lines) == 1 and not entry.has_comment:
        return entry.lines[0]
    if entry.has_comment or entry.comments:
        message = f"the comments of '{shorten(entry.name)}' have no place between braces: write that block in lines"
        refuse(entry.mark, "bad-move", message, shorten(entry.name))
    return render(entry.value, flow=True, quote="")

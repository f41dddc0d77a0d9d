"""Parsing of a block, its nodes by name, and of the loops in it."""

from __future__ import annotations

from typing import TypeVar

from guidegraph.graph.kinds import list_loop_keys, load_function, match_kind
from guidegraph.graph.language.parse_node import NODE_KEYS, read_links, read_node
from guidegraph.graph.language.syntax import ParsedBroken, ParsedLoop, ParsedOp
from guidegraph.graph.language.tree_reader import Entries, TreeReader, get_tree
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlMapping, shorten

RESERVED = ("params", "carry", "loop")
MAX_NESTING = 8


def read_block(reader: TreeReader, tree: Tree | None, path: str, depth: int) -> dict[str, ParsedOp] | None:
    """The nodes of a workflow or a loop's body, broken ones included; None for any other value, which is reported."""
    entries = reader.read_mapping(tree, path, "nodes by name")
    if entries is None:
        return None
    nodes: dict[str, ParsedOp] = {}
    for name, (key, node) in entries.items():
        node_path = f"{path}.{shorten(name)}"
        op = _read_op(reader, key, node, node_path, depth) if reader.check_name(key, node_path, RESERVED) else None
        nodes[name] = op or ParsedBroken(name, node_path, key.mark)
    return nodes


def _read_op(reader: TreeReader, key: Scalar, tree: Tree, path: str, depth: int) -> ParsedOp | None:
    if not isinstance(tree, YamlMapping):
        reader.report_unexpected("a node such as {use: …, in: {…}}", tree, "not-a-mapping", path)
        return None
    entries = reader.read_mapping(tree, path, "a node") or {}
    kind = match_kind(entries)
    if kind is None:
        return read_node(reader, key, entries, path, NODE_KEYS)
    op: ParsedOp | None = load_function(kind.read)(reader, key, entries, path, depth)
    return op


Loop = TypeVar("Loop", bound=ParsedLoop)


def read_loop(
    reader: TreeReader,
    key: Scalar,
    entries: Entries,
    path: str,
    depth: int,
    make: type[Loop] = ParsedLoop,  # type: ignore[assignment]
) -> Loop | None:
    """Parse what all kinds of loop have; None if it cannot be read at all. make: the class of the parsed loop."""
    unread = reader.report_unknown_keys(entries, list_loop_keys(), path)
    if depth >= MAX_NESTING:
        reader.report(key.mark, "too-deep", f"loops nest at most {MAX_NESTING} deep", path)
        return None
    if "body" not in entries:
        if "body" not in unread:
            reader.report(key.mark, "missing-key", "a loop needs a 'body', nodes by name", path)
        unread.add("body")
    over, item = _read_loop_head(reader, key, entries, path, unread)
    carry, after, collect = (
        read_links(reader, get_tree(entries, n), f"{path}.{n}") for n in ("carry", "next", "collect")
    )
    body = read_block(reader, get_tree(entries, "body"), f"{path}.body", depth + 1)
    groups = {"carry": carry, "next": after, "collect": collect, "body": body}
    unread |= {name for name, group in groups.items() if group is None}
    next_mark = entries["next"][0].mark if "next" in entries else key.mark
    return make(
        key.text,
        path,
        key.mark,
        over,
        item,
        carry or {},
        body or {},
        after or {},
        next_mark,
        collect or {},
        frozenset(unread),
    )


def _read_loop_head(
    reader: TreeReader, loop_key: Scalar, entries: Entries, path: str, unread: set[str]
) -> tuple[Scalar | None, Scalar | None]:
    """``over`` and ``as``, each None if invalid."""
    if "loop" not in entries:
        if "loop" not in unread:
            message = "a node with a 'body' needs 'loop': {over: LINK, as: NAME}"
            reader.report(loop_key.mark, "missing-key", message, path)
        return None, None
    path = f"{path}.loop"
    key, tree = entries["loop"]
    head = reader.read_mapping(tree, path, "{over: …, as: …}")
    if head is None:
        return None, None
    meant = reader.report_unknown_keys(head, ("over", "as"), path)
    missing = {"over", "as"} - head.keys()
    if len(head) != 2 or len(missing) != 1:
        for name in sorted(missing - meant):
            reader.report(key.mark, "missing-key", f"a loop needs '{name}': {{over: LINK, as: NAME}}", path)
    over, item = get_tree(head, "over"), get_tree(head, "as")
    if over is not None and not isinstance(over, Scalar):
        hint = "; a loop runs over what a node or a parameter gives"
        reader.report_unexpected("a link", over, "not-a-link", f"{path}.over", hint)
    if item is not None and not isinstance(item, Scalar):
        reader.report_unexpected("a name", item, "bad-name", f"{path}.as")
        item = None
    if item is not None and not reader.check_name(item, f"{path}.as", (*RESERVED, "index")):
        item = None
    return over if isinstance(over, Scalar) else None, item

"""Parsing of one node, ``{use: ID, in: {PORT: LINK}, with: {SETTING: VALUE}}``, and of links by name."""

from __future__ import annotations

from guidegraph.graph.language.syntax import Links, NamedLinks, ParsedNode
from guidegraph.graph.language.tree_reader import Entries, TreeReader, get_tree, join_path
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlMapping, YamlSequence, has_broken, shorten

NODE_KEYS = ("use", "in", "with")


def read_node(reader: TreeReader, key: Scalar, entries: Entries, path: str, keys: tuple[str, ...]) -> ParsedNode | None:
    """A call of a node; None without an id. keys: the allowed ones."""
    meant = reader.report_unknown_keys(entries, keys, path)
    if "use" not in entries:
        if "use" not in meant:
            reader.report(key.mark, "missing-key", "expected 'use', the node's id, 'loop' or 'choose'", path)
        return None
    use = entries["use"][1]
    if not isinstance(use, Scalar) or not use.text:
        reader.report_unexpected("a node's id", use, "bad-value", f"{path}.use")
        return None
    node = ParsedNode(key.text, path, key.mark, use)
    inputs = reader.read_mapping(get_tree(entries, "in"), f"{path}.in", "links by port")
    for port, (port_key, value) in (inputs or {}).items():
        links: Links | None = None
        if isinstance(value, Scalar) or (
            isinstance(value, YamlSequence) and all(isinstance(item, Scalar) for item in value.items)
        ):
            links = value
        elif not has_broken(value):
            hint = "; literals go under 'with'"
            location = f"{path}.in.{shorten(port)}"
            reader.report_unexpected("a link or a list of links", value, "not-a-link", location, hint)
        node.inputs[port] = (port_key.mark, links)
    literals = reader.read_mapping(get_tree(entries, "with"), f"{path}.with", "values by setting")
    for port, (port_key, value) in (literals or {}).items():
        node.literals[port] = (port_key.mark, reader.read_literal(value, f"{path}.with.{shorten(port)}"))
    unknown = (tree for name, (_, tree) in entries.items() if name not in keys)
    node.partial = inputs is None or literals is None or any(isinstance(tree, YamlMapping) for tree in unknown)
    return node


def read_links(reader: TreeReader, tree: Tree | None, path: str) -> NamedLinks | None:
    """Links by name, of ``outputs``, ``carry``, ``next`` or ``collect``."""
    entries = reader.read_mapping(tree, path, "links by name")
    links: NamedLinks = {}
    for name, (key, value) in (entries or {}).items():
        if not reader.check_name(key, join_path(path, name)):
            continue
        if not isinstance(value, Scalar):
            reader.report_unexpected("a link", value, "not-a-link", f"{path}.{name}")
        links[name] = (key.mark, value if isinstance(value, Scalar) else None)
    return None if entries is None else links

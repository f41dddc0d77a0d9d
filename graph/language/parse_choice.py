"""Parsing of a choice: ``choose: {when: LINK, of: {VALUE: LINK, …}, otherwise: LINK}``."""

from __future__ import annotations

from guidegraph.graph.language.syntax import ParsedChoice
from guidegraph.graph.language.tree_reader import Entries, TreeReader
from guidegraph.graph.language.yaml_tree import Scalar, Tree, shorten
from guidegraph_runtime.declare.choice_words import CHOOSE, OF, OTHERWISE, WHEN

FORM = "{when: LINK, of: {VALUE: LINK, …}}"


def read_choice(reader: TreeReader, key: Scalar, entries: Entries, path: str, _depth: int) -> ParsedChoice | None:
    """Parse a choice node; None if it cannot be read at all. It holds no other nodes, at any depth."""
    reader.report_unknown_keys(entries, (CHOOSE,), path)
    path = f"{path}.{CHOOSE}"
    head, tree = entries[CHOOSE]
    choice = reader.read_mapping(tree, path, FORM)
    if choice is None:
        return None
    unread = reader.report_unknown_keys(choice, (WHEN, OF, OTHERWISE), path)
    for name in (WHEN, OF):
        if name not in choice and name not in unread:
            reader.report(head.mark, "missing-key", f"a choice needs '{name}': {FORM}", path)
            unread.add(name)
    links = {name: _to_link(reader, choice[name][1], f"{path}.{name}") for name in (WHEN, OTHERWISE) if name in choice}
    unread |= {name for name, link in links.items() if link is None}
    branches = _read_branches(reader, choice, path, unread)
    path = path.removesuffix(f".{CHOOSE}")
    when, otherwise = links.get(WHEN), links.get(OTHERWISE)
    return ParsedChoice(key.text, path, key.mark, when, branches, otherwise, frozenset(unread))


def _to_link(reader: TreeReader, tree: Tree, path: str) -> Scalar | None:
    """The tree as a link; None for any other value, which is reported."""
    if isinstance(tree, Scalar) and isinstance(tree.value, str):
        return tree
    reader.report_unexpected("a link", tree, "not-a-link", path, "; make a parameter of a value and link to it")
    return None


def _read_branches(
    reader: TreeReader, entries: Entries, path: str, unread: set[str]
) -> dict[str, tuple[Scalar, Scalar | None]]:
    if OF not in entries:
        return {}
    path = f"{path}.{OF}"
    key, tree = entries[OF]
    links_by_value = reader.read_mapping(tree, path, "links by the value that takes them")
    if links_by_value is None:
        unread.add(OF)
        return {}
    if not links_by_value:
        reader.report(key.mark, "missing-key", "a choice needs a branch or more, such as 'true: some_node'", path)
        unread.add(OF)
    branches: dict[str, tuple[Scalar, Scalar | None]] = {}
    for name, (label, value) in links_by_value.items():
        if name in (WHEN, OTHERWISE):
            hint = "; 'otherwise' goes beside 'of'" if name == OTHERWISE else ""
            reader.report(label.mark, "reserved-name", f"'{name}' cannot be the value of a branch{hint}", path)
            unread.add(OF)
            continue
        branches[name] = (label, _to_link(reader, value, f"{path}.{shorten(name)}"))
    return branches

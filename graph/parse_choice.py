"""The shape of a choice: ``choose: {when: LINK, of: {VALUE: LINK, …}, otherwise: LINK}``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from guidegraph.graph.ir import OTHERWISE, WHEN
from guidegraph.graph.parsed import ParsedChoice
from guidegraph.graph.yamltree import Scalar, Tree, short

if TYPE_CHECKING:
    from guidegraph.graph.parse import Entries, Parser

CHOOSE = "choose"
OF = "of"
FORM = "{when: LINK, of: {VALUE: LINK, …}}"


def parse_choice(parser: Parser, key: Scalar, entries: Entries, path: str) -> ParsedChoice | None:
    """A choice node; None where nothing of it can be read."""
    parser.known(entries, (CHOOSE,), path)
    path = f"{path}.{CHOOSE}"
    head, tree = entries[CHOOSE]
    inside = parser.mapping(tree, path, FORM)
    if inside is None:
        return None
    unread = parser.known(inside, (WHEN, OF, OTHERWISE), path)
    for name in (WHEN, OF):
        if name not in inside and name not in unread:
            parser.add(head.mark, "missing-key", f"a choice needs '{name}': {FORM}", path)
            unread.add(name)
    when, otherwise = (_link(parser, inside, name, path, unread) for name in (WHEN, OTHERWISE))
    branches = _branches(parser, inside, path, unread)
    return ParsedChoice(
        key.text, path.removesuffix(f".{CHOOSE}"), key.mark, when, branches, otherwise, frozenset(unread)
    )


def _link(parser: Parser, entries: Entries, name: str, path: str, unread: set[str]) -> Scalar | None:
    if name not in entries:
        return None
    link = _as_link(parser, entries[name][1], f"{path}.{name}")
    unread |= set() if link else {name}
    return link


def _as_link(parser: Parser, tree: Tree, path: str) -> Scalar | None:
    """A link; anything else is reported."""
    if isinstance(tree, Scalar) and isinstance(tree.value, str):
        return tree
    parser.expected("a link", tree, "not-a-link", path, "; make a parameter of a value and link to it")
    return None


def _branches(parser: Parser, entries: Entries, path: str, unread: set[str]) -> dict[str, tuple[Scalar, Scalar | None]]:
    if OF not in entries:
        return {}
    path = f"{path}.{OF}"
    key, tree = entries[OF]
    found = parser.mapping(tree, path, "links by the value that takes them")
    if found is None:
        unread.add(OF)
        return {}
    if not found:
        parser.add(key.mark, "missing-key", "a choice needs a branch or more, such as 'true: some_node'", path)
        unread.add(OF)
    branches: dict[str, tuple[Scalar, Scalar | None]] = {}
    for name, (label, value) in found.items():
        if name in (WHEN, OTHERWISE):
            hint = "; 'otherwise' stands beside 'of'" if name == OTHERWISE else ""
            parser.add(label.mark, "reserved-name", f"'{name}' cannot be the value of a branch{hint}", path)
            unread.add(OF)
            continue
        branches[name] = (label, _as_link(parser, value, f"{path}.{short(name)}"))
    return branches

"""Reading of mappings, names and literals from a YAML tree."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from guidegraph.graph.errors import Mark, Problem, closest_match, suggest
from guidegraph.graph.language.yaml_tree import (
    BrokenYaml,
    Scalar,
    Tree,
    YamlMapping,
    describe_tree,
    find_repeated_keys,
    has_broken,
    shorten,
)

Entries: TypeAlias = dict[str, tuple[Scalar, Tree]]
"""The entries of a mapping: key and value, by the key's text."""


class TreeReader:
    """Reads mappings, names and literals of a YAML tree and collects syntax problems."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems

    def report(self, mark: Mark, code: str, message: str, path: str = "") -> None:
        self.problems.append(Problem(mark, code, message, path))

    def report_unexpected(self, expected: str, tree: Tree, code: str, path: str, hint: str = "") -> None:
        """Report an unexpected ``tree``, unless it is broken: then it has been reported already."""
        if not isinstance(tree, BrokenYaml):
            self.report(tree.mark, code, f"expected {expected}, found {describe_tree(tree)}{hint}", path)

    def read_mapping(self, tree: Tree | None, path: str, expected: str) -> Entries | None:
        """The entries of a mapping, empty if null or absent; None for any other value, which is reported."""
        if tree is None or (isinstance(tree, Scalar) and tree.value is None):
            return {}
        if not isinstance(tree, YamlMapping):
            self.report_unexpected(expected, tree, "not-a-mapping", path)
            return None
        entries: Entries = {}
        for key, value in tree.items:
            if key.text in entries:
                first = entries[key.text][0].mark.line
                message = f"'{shorten(key.text)}' appears twice, first on line {first}"
                self.report(key.mark, "duplicate-key", message, join_path(path, key.text))
            else:
                entries[key.text] = (key, value)
        return entries

    def report_unknown_keys(self, entries: Entries, names: Collection[str], path: str) -> set[str]:
        """Report unknown keys. Returns the valid keys that they are likely misspellings of."""
        meant: set[str] = set()
        for name, (key, _) in entries.items():
            if (start := name.partition(":")[0]) != name and start in names:
                message = f"expected a space after the colon: '{start}: {shorten(name[len(start) + 1 :])}'"
                self.report(key.mark, "unknown-key", message, join_path(path, start))
                meant.add(start)
            elif name not in names:
                message = f"unknown key '{shorten(name)}'; {suggest(shorten(name), names, 'keys')}"
                self.report(key.mark, "unknown-key", message, join_path(path, name))
                guess = closest_match(name[:60], [n for n in names if n not in entries])
                meant |= {guess} if guess else set()
        return meant

    def read_literal(self, tree: Tree, path: str) -> Tree | None:
        """A literal as a tree, None if it is broken; repeated keys in it are reported."""
        for key in find_repeated_keys(tree):
            self.report(key.mark, "duplicate-key", f"'{shorten(key.text)}' appears twice", path)
        return None if has_broken(tree) else tree

    def check_name(self, key: Scalar, path: str, reserved: Collection[str] = ()) -> bool:
        """Whether a key is a valid name for links to refer to; an invalid one is reported, with its own path."""
        if key.text in reserved:
            message = f"'{key.text}' is reserved; choose another name"
            self.report(key.mark, "reserved-name", message, path)
            return False
        if not key.text.isidentifier():
            message = f"expected a name of letters, digits and '_', found '{shorten(key.text)}'"
            self.report(key.mark, "bad-name", message, path)
            return False
        return True


def join_path(path: str, key: str) -> str:
    """The path of an entry of the mapping at ``path``, which is empty at the top of a file."""
    return f"{path}.{shorten(key)}" if path else shorten(key)


def get_tree(entries: Entries, name: str) -> Tree | None:
    return entries[name][1] if name in entries else None

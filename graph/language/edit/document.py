"""A workflow's text with its YAML tree, and replacements of spans of the text."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, NoReturn

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.language.yaml_tree import (
    LINE_BREAK,
    BrokenYaml,
    Scalar,
    Span,
    Tree,
    YamlMapping,
    describe_tree,
    read_tree,
)

BYTE_ORDER_MARK = "\ufeff"
WHITE_SPACE = " \t\r\n\x85\u2028\u2029"
"""White space of YAML. Other Unicode spaces belong to a value."""


class Replacement(NamedTuple):
    """New text in place of the characters from ``start`` to ``end``; an insertion if they are equal."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Document:
    """A workflow's text, with its line ends and without a byte order mark, and its YAML tree.

    file: the path for messages.
    """

    text: str
    file: str
    root: YamlMapping

    @classmethod
    def parse(cls, text: str, file: str = "workflow.yaml") -> Document:
        """Read a text. Raises ``WorkflowError`` if it is not YAML or not a mapping.

        A workflow that is YAML may have other errors.
        """
        text = text.removeprefix(BYTE_ORDER_MARK)
        tree, problems = read_tree(text, file)
        if tree is None or problems:
            raise WorkflowError(problems)
        if not isinstance(tree, YamlMapping):
            message = f"expected a workflow, a mapping, found {describe_tree(tree)}"
            raise WorkflowError([Problem(tree.mark, "not-a-mapping", message)])
        return cls(text, file, tree)

    def replace(self, replacements: Iterable[Replacement]) -> Document:
        """The document with the text of each span replaced; spans may not overlap."""
        pieces: list[str] = []
        position = 0
        for start, end, text in sorted(replacements, key=lambda item: item[:2]):
            assert start >= position, "replacements overlap"
            pieces += [self.text[position:start], text]
            position = end
        return Document.parse("".join([*pieces, self.text[position:]]), self.file)

    @cached_property
    def newline(self) -> str:
        """The line end of the file, as in its first line."""
        match = LINE_BREAK.search(self.text)
        return match[0] if match and match[0] in ("\r\n", "\r") else "\n"

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in LINE_BREAK.finditer(self.text))]

    def line_start(self, offset: int) -> int:
        """The offset of the first character of a line."""
        return self._line_starts[bisect.bisect_right(self._line_starts, offset) - 1]

    def line_end(self, offset: int) -> int:
        """The offset after the last character of a line, before its line end."""
        match = LINE_BREAK.search(self.text, offset)
        return match.start() if match else len(self.text)

    def next_line(self, offset: int) -> int:
        """The offset of the first character of the next line; the end of the text after the last one."""
        match = LINE_BREAK.search(self.text, offset)
        return match.end() if match else len(self.text)

    def column(self, offset: int) -> int:
        """The number of characters before an offset in its line."""
        return offset - self.line_start(offset)

    def value_end(self, tree: Tree) -> int:
        """The offset after a value's last visible character: a block scalar's span includes empty lines after it."""
        start, end = tree.span
        return start + len(self.text[start:end].rstrip(WHITE_SPACE)) if end > start else end

    def is_one_line(self, span: Span) -> bool:
        return LINE_BREAK.search(self.text, *span) is None


def refuse(mark: Mark, code: str, message: str, path: str = "") -> NoReturn:
    """Raise the ``WorkflowError`` of an edit that cannot be made."""
    raise WorkflowError([Problem(mark, code, message, path)])


def find_entry(mapping: Tree | None, key: str) -> tuple[Scalar, Tree] | None:
    """The key and the value of a mapping's entry, or None."""
    items = mapping.items if isinstance(mapping, YamlMapping) else []
    return next(((name, value) for name, value in items if name.text == key), None)


def find_value(mapping: Tree | None, key: str) -> Tree | None:
    """The value of a mapping's entry, or None."""
    entry = find_entry(mapping, key)
    return entry[1] if entry else None


def is_empty(tree: Tree | None) -> bool:
    """Whether a value is absent, null or an empty collection."""
    if isinstance(tree, Scalar):
        return tree.value is None
    return tree is None or isinstance(tree, BrokenYaml) or not tree.items

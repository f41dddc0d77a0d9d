"""A workflow's text with its YAML tree, and replacements of spans of the text."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath
from typing import Any, NamedTuple, NoReturn

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.language.yaml_tree import (
    LINE_BREAK,
    BrokenYaml,
    Scalar,
    Span,
    Tree,
    YamlMapping,
    YamlSequence,
    describe_tree,
    find_repeated_keys,
    has_broken,
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


VALUE = "VALUE"
_NO_MARK = Mark(VALUE, 1, 1)
_OPENING = ("[", "{", '"', "'")
_INDICATORS = ("-", "?", ":")
_NO_PLAIN_TEXT = ("", " ", "\t", ",", "[", "]", "{", "}")
"""What may not follow an indicator at the start of a text without quotes (YAML 1.2, rule 123)."""
_WORD = re.compile(r"[A-Za-z_][\w-]*\Z", re.ASCII)
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0"}
_ESCAPED = re.compile('[\\\\"\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]')


def parse_value(text: str) -> Tree:
    """Read a value as a person writes it: a list, a mapping and a quoted text are YAML.

    Anything else is a number, true, false or null, or else a text, so ``a tiger: on grass`` is one. ``"6"`` is a text
    too, and so is nothing at all. Raises ``WorkflowError``.
    """
    if not text.strip():
        return Scalar(text, False, _NO_MARK)
    if not text.lstrip().startswith(_OPENING):
        return Scalar(text, True, _NO_MARK)
    tree, problems = read_tree(text, VALUE)
    if tree is not None:
        problems = [
            *problems,
            *(Problem(k.mark, "duplicate-key", f"'{k.text}' appears twice") for k in find_repeated_keys(tree)),
        ]
    if problems or tree is None or has_broken(tree):
        hint = f"; a text that begins with {text.lstrip()[0]} is written in quotes, such as '\"[a] cat\"'"
        raise WorkflowError([replace(problem, message=problem.message + hint) for problem in problems])
    return tree


def to_tree(value: Any) -> Tree:
    """A Python value as a tree; a tree is returned unchanged. Raises ``WorkflowError`` for a value of another type."""
    if isinstance(value, (Scalar, YamlSequence, YamlMapping)):
        return value
    if isinstance(value, (str, PurePath)):
        return Scalar(str(value), False, _NO_MARK)
    if value is None or isinstance(value, bool):
        return Scalar("null" if value is None else str(value).lower(), True, _NO_MARK)
    if isinstance(value, (int, float)):
        number = float.__repr__(value) if isinstance(value, float) else int.__repr__(value)  # not NumPy's own repr
        return Scalar({"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(number, number), True, _NO_MARK)
    if isinstance(value, Mapping):
        return YamlMapping([(plain_text(key), to_tree(item)) for key, item in value.items()], _NO_MARK)
    if isinstance(value, (list, tuple)):
        return YamlSequence([to_tree(item) for item in value], _NO_MARK)
    message = f"expected a number, a text, a list or a mapping, found a value of type {type(value).__name__}"
    raise WorkflowError([Problem(_NO_MARK, "bad-value", message)])


def plain_text(key: object) -> Scalar:
    """A text that is written without quotes if possible: a name or a link. An empty one cannot."""
    return Scalar(str(key), str(key) != "", _NO_MARK)


def render(tree: Tree, *, flow: bool, quote: str = '"') -> str:
    """A value on one line. flow: inside of brackets or braces. quote: the preferred one; empty: none if possible."""
    if isinstance(tree, YamlSequence):
        return f"[{', '.join(render(item, flow=True, quote=_own_quote(item, quote)) for item in tree.items)}]"
    if isinstance(tree, YamlMapping):
        return f"{{{', '.join(render_entry(key, item, flow=True, quote=quote) for key, item in tree.items)}}}"
    assert isinstance(tree, Scalar), "a broken value has no text"
    if tree.plain and not isinstance(tree.value, str):
        return tree.text or "null"
    if not quote and can_be_plain(tree.text, flow):
        return tree.text
    if quote == "'" and not _ESCAPED.search(tree.text.replace('"', "").replace("\\", "")):
        return "'" + tree.text.replace("'", "''") + "'"
    return '"' + _ESCAPED.sub(_escape, tree.text) + '"'


def render_entry(key: Scalar, value: Tree, *, flow: bool, quote: str = '"', padding: str = " ") -> str:
    """``key: value``; an empty quote stands for none where possible."""
    return f"{render(key, flow=flow, quote='')}:{padding}{render(value, flow=flow, quote=_own_quote(value, quote))}"


def _own_quote(tree: Tree, quote: str) -> str:
    """The quotes for a value in a collection: none if it is written without."""
    return "" if isinstance(tree, Scalar) and tree.plain else quote


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if 0xD800 <= code < 0xE000:
        raise WorkflowError([Problem(_NO_MARK, "bad-value", "expected text of whole characters, found half of one")])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def is_word(text: str) -> bool:
    """Whether a text is a word of letters, digits, '_' and '-', which is read as text without quotes."""
    return _WORD.match(text) is not None and isinstance(Scalar(text, True, _NO_MARK).value, str)


def can_be_plain(text: str, flow: bool) -> bool:
    """Whether a text can be written without quotes and is read as the same text."""
    if not isinstance(Scalar(text, True, _NO_MARK).value, str) or "\n" in text or "\r" in text:
        return False
    if text[:1] in _INDICATORS and text[1:2] in _NO_PLAIN_TEXT:  # our reader takes it, and others do not
        return False
    tree, problems = read_tree(f"{{k: {text}, l: 1}}" if flow else f"k: {text}\nl: 1\n", VALUE)
    if problems or not isinstance(tree, YamlMapping) or len(tree.items) != 2:
        return False
    value = tree.items[0][1]
    return isinstance(value, Scalar) and value.plain and value.text == text

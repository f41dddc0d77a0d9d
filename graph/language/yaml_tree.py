"""YAML with the position of every value, read from the C parser's events without recursion.

Plain scalars: ``true``/``false``, ``null``/``~``, integers and floats (``1e-4`` too) are values; anything else is text,
including ``on``, dates, and numbers too large for a float. Where a name is expected, the text is used, whatever the
value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from guidegraph.graph.errors import Mark, Problem, WorkflowError, closest_match, suggest
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph_runtime.limits import LimitExceeded

MAX_DEPTH = 64

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?\Z")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""A line end, as YAML counts lines."""
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # PyYAML built without libyaml works too, but is slower
_MAX_DIGITS = 308  # an integer of so many digits always fits a float
_MAX_SHOWN = 60
Span: TypeAlias = tuple[int, int]
"""The offsets in the text (without a byte order mark) of a value's first character and of the one after its last."""
NO_SPAN: Span = (0, 0)
"""The span of a value that was not read from a text."""
_WORDS = {"true": True, "false": False, "null": None}
_SPECIAL: dict[str, Any] = {"~": None, "": None}
for _word, _value in _WORDS.items():  # as YAML 1.2 has them: true, True, TRUE
    _SPECIAL |= dict.fromkeys((_word, _word.capitalize(), _word.upper()), _value)
for _word in ("inf", "Inf", "INF"):
    _SPECIAL |= {f".{_word}": math.inf, f"+.{_word}": math.inf, f"-.{_word}": -math.inf}
_SPECIAL |= dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar: ``text`` without its quotes, ``value`` as YAML interprets it. ``plain``: written without quotes."""

    text: str
    plain: bool
    mark: Mark
    span: Span = NO_SPAN

    @property
    def value(self) -> Any:
        if not self.plain:
            return self.text
        if self.text in _SPECIAL:
            return _SPECIAL[self.text]
        if _INT.match(self.text) and len(self.text) <= _MAX_DIGITS:
            return int(self.text)
        if _FLOAT.match(self.text) and math.isfinite(number := float(self.text)):
            return number
        return self.text


@dataclass(slots=True)
class YamlSequence:
    """A sequence. ``flow``: written in brackets. The span of one in block style ends with its last item."""

    items: list[Tree]
    mark: Mark
    span: Span = NO_SPAN
    flow: bool = True


@dataclass(slots=True)
class YamlMapping:
    """A mapping. ``flow``: written in braces. The span of one in block style ends with its last value."""

    items: list[tuple[Scalar, Tree]]
    mark: Mark
    span: Span = NO_SPAN
    flow: bool = True


@dataclass(frozen=True, slots=True)
class BrokenYaml:
    """A value that is not plain YAML; the problem is already reported."""

    mark: Mark
    span: Span = NO_SPAN


Tree: TypeAlias = Scalar | YamlSequence | YamlMapping | BrokenYaml


def to_python(tree: Tree) -> Any:
    """Convert a tree to Python values. Recursive: a tree's depth is bounded."""
    if isinstance(tree, Scalar):
        return tree.value
    if isinstance(tree, YamlSequence):
        return [to_python(item) for item in tree.items]
    return {key.text: to_python(value) for key, value in tree.items} if isinstance(tree, YamlMapping) else None


def has_broken(tree: Tree) -> bool:
    """Whether a tree contains a value reported as not plain YAML."""
    if isinstance(tree, YamlSequence):
        return any(map(has_broken, tree.items))
    if isinstance(tree, YamlMapping):
        return any(has_broken(value) for _, value in tree.items)
    return isinstance(tree, BrokenYaml)


def find_repeated_keys(tree: Tree) -> Iterator[Scalar]:
    """Every key, anywhere in a tree, that repeats an earlier key of its mapping."""
    children: list[Tree] = []
    if isinstance(tree, YamlSequence):
        children = tree.items
    elif isinstance(tree, YamlMapping):
        seen: set[str] = set()
        for key, value in tree.items:
            if key.text in seen:
                yield key
            seen.add(key.text)
            children.append(value)
    for child in children:
        yield from find_repeated_keys(child)


def shorten(text: object) -> str:
    """A name for a message: shortened, with control characters escaped."""
    result = str(text)
    result = result if len(result) <= _MAX_SHOWN else f"{result[:_MAX_SHOWN]}…"
    return result if result.isprintable() else result.encode("unicode_escape").decode()


def describe_tree(tree: Tree) -> str:
    """A short description of a tree for messages."""
    if isinstance(tree, YamlMapping):
        return "a mapping"
    if isinstance(tree, YamlSequence):
        return "a list"
    if isinstance(tree, BrokenYaml) or tree.value is None:
        return "nothing"
    return "an empty text" if not tree.text else f"{type(tree.value).__name__} '{shorten(tree.text)}'"


def read_text(path: Path, file: str | None = None) -> str:
    """Read a text file. Raises ``WorkflowError`` if it cannot be read or is not UTF-8.

    file: the path for the error message.
    """
    file = str(path) if file is None else file
    try:
        data = read_regular(path, limit="workflow_bytes")
    except LimitExceeded as error:
        raise WorkflowError([Problem(Mark(file, 1, 1), "too-large", str(error))]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = Problem(Mark(file, 1, 1), "no-file", f"cannot read the workflow: {reason}")
        raise WorkflowError([problem]) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.start counts from the text's first byte, after a byte order mark.
        before = error.object[: error.start].decode("utf-8")
        mark = Mark(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        message = "expected UTF-8 text, found other bytes: save the file as UTF-8"
        raise WorkflowError([Problem(mark, "not-text", message)]) from None


def read_tree(text: str, file: str) -> tuple[Tree | None, list[Problem]]:
    """Parse a text with one document; returns its tree (``None`` if unreadable) and its problems."""
    builder = _TreeBuilder(file)
    text = text.removeprefix("\ufeff")
    if match := _UNPRINTABLE.search(text):
        before = LINE_BREAK.split(text[: match.start()])
        mark = Mark(file, len(before), len(before[-1]) + 1)
        message = f"the character U+{ord(match[0]):04X} is not allowed in YAML: remove it"
        return None, [Problem(mark, "yaml-syntax", message)]
    try:
        return builder.build(yaml.parse(text, Loader=_Loader)), builder.problems
    except yaml.YAMLError as error:
        return None, [*builder.problems, _make_syntax_problem(error, text, file)]
    except _Stop:
        return None, builder.problems


_SYNTAX_HINTS = {
    "mapping values are not allowed": ": put a text that contains ': ' in quotes, and check the indentation",
    "block mapping did not find expected key": ": check the indentation of this line",
    "block collection did not find expected '-'": ": check the indentation of this line",
}
"""What to do about a mistake, by a part of the YAML library's message."""


def _make_syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    location = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if location is None:
        return Problem(Mark(file, 1, 1), "yaml-syntax", " ".join(str(error).split()))
    mark = Mark(file, location.line + 1, location.column + 1)
    context, problem = getattr(error, "context", None), getattr(error, "problem", None) or ""
    if "nesting depth" in problem:
        return Problem(mark, "too-deep", f"nested more than {MAX_DEPTH} levels deep")
    lines = LINE_BREAK.split(text)
    character = lines[location.line][location.column : location.column + 1] if location.line < len(lines) else ""
    if "cannot start any token" in problem:
        description = (
            "a tab: indent with spaces" if character == "\t" else f"'{character}', which cannot begin a value: quote it"
        )
        return Problem(mark, "yaml-syntax", f"found {description}")
    start = getattr(error, "context_mark", None)
    suffix = f" (begun on line {start.line + 1})" if start is not None and start.line != location.line else ""
    hint = next((hint for part, hint in _SYNTAX_HINTS.items() if part in f"{context} {problem}"), "")
    return Problem(mark, "yaml-syntax", " ".join(filter(None, (context, problem))) + suffix + hint)


class _Stop(Exception):
    """Parsing cannot continue."""


class _TreeBuilder:
    """Builds a tree from the parser's events and collects problems."""

    def __init__(self, file: str):
        self.file = file
        self.problems: list[Problem] = []

    def build(self, events: Iterator[Any]) -> Tree:
        root: Tree | None = None
        stack: list[tuple[YamlSequence | YamlMapping, list[Tree]]] = []
        for event in events:
            if isinstance(event, (yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                if event.anchor or event.tag:
                    self._check(event)
                if len(stack) >= MAX_DEPTH:
                    self._add(event, "too-deep", f"nested more than {MAX_DEPTH} levels deep")
                    raise _Stop
                kind = YamlSequence if isinstance(event, yaml.SequenceStartEvent) else YamlMapping
                stack.append((kind([], *self._locate(event), bool(event.flow_style)), []))
                continue
            if isinstance(event, yaml.DocumentStartEvent) and root is not None:
                self._add(event, "several-documents", "expected one YAML document, found a second: remove '---'")
                raise _Stop
            if isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                tree = self._close_collection(*stack.pop(), event)
            elif isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)):
                tree = self._read_leaf(event)
            else:
                continue
            if stack:
                stack[-1][1].append(tree)
            else:
                root = tree
        if root is None:
            self.problems.append(Problem(Mark(self.file, 1, 1), "empty", "the file is empty: expected a workflow"))
            raise _Stop
        return root

    def _close_collection(self, collection: YamlSequence | YamlMapping, children: list[Tree], event: Any) -> Tree:
        """End a sequence or mapping; the children of a mapping are its keys and values in turn."""
        # The parser ends a block only where the next token begins, after comments and empty lines.
        end = children[-1].span[1] if children and not collection.flow else event.end_mark.index
        collection.span = (collection.span[0], end)
        if isinstance(collection, YamlSequence):
            collection.items = children
        else:
            for key, value in zip(children[::2], children[1::2], strict=True):
                if isinstance(key, Scalar) and not (key.plain and key.text == "<<"):
                    collection.items.append((key, value))
                else:
                    self._report_key(key)
        return collection

    def _read_leaf(self, event: Any) -> Tree:
        """A scalar; broken for a tag or an alias."""
        start, end = event.start_mark, event.end_mark
        mark, span = Mark(self.file, start.line + 1, start.column + 1), (start.index, end.index)
        if isinstance(event, yaml.AliasEvent):
            message = f"aliases (*{shorten(event.anchor)}) are not part of the language: write the value out"
            self._add(event, "alias", message)
            return BrokenYaml(mark, span)
        if (event.anchor or event.tag) and not self._check(event):
            return BrokenYaml(mark, span)
        return Scalar(event.value, not event.style and event.implicit[0], mark, span)

    def _check(self, event: Any) -> bool:
        """Report an anchor or a tag. Returns whether the value can be used; one with a tag cannot."""
        if event.anchor:
            message = f"anchors (&{shorten(event.anchor)}) are not part of the language: write the value out"
            self._add(event, "alias", message)
        if event.tag:
            tag = shorten(event.tag.replace("tag:yaml.org,2002:", "!!"))
            self._add(event, "tag", f"tags ({tag}) are not part of the language: remove it")
            return False
        return True

    def _report_key(self, key: Tree) -> None:
        """Report a key that is no name, and is dropped."""
        if isinstance(key, Scalar):
            message = "merge keys (<<) are not part of the language: write the entries out"
            self.problems.append(Problem(key.mark, "alias", message))
        elif not isinstance(key, BrokenYaml):
            self.problems.append(Problem(key.mark, "bad-key", f"expected a name as key, found {describe_tree(key)}"))

    def _locate(self, event: Any) -> tuple[Mark, Span]:
        start = event.start_mark
        return Mark(self.file, start.line + 1, start.column + 1), (start.index, event.end_mark.index)

    def _add(self, event: Any, code: str, message: str) -> None:
        self.problems.append(Problem(self._locate(event)[0], code, message))


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

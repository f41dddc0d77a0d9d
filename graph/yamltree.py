"""YAML with the place of everything, read from the C parser's events without recursion.

Plain scalars: ``true``/``false``, ``null``/``~``, integers and floats (``1e-4`` too) are values; all else is text,
``on`` and dates included, and numbers too large for a float. Where a name is meant, the text counts, whatever the
value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from guidegraph.graph.errors import Mark, Problem, WorkflowError

MAX_DEPTH = 64

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?\Z")
_MAX_DIGITS = 308  # what surely fits a float
_SHOWN = 60
_WORDS = {"true": True, "false": False, "null": None}
_SPECIAL: dict[str, Any] = {"~": None, "": None}
for _word, _value in _WORDS.items():  # as YAML 1.2 has them: true, True, TRUE
    _SPECIAL |= dict.fromkeys((_word, _word.capitalize(), _word.upper()), _value)
for _word in ("inf", "Inf", "INF"):
    _SPECIAL |= {f".{_word}": math.inf, f"+.{_word}": math.inf, f"-.{_word}": -math.inf}
_SPECIAL |= dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)


@dataclass(frozen=True)
class Scalar:
    """``text`` as written; ``value`` as YAML means it."""

    text: str
    plain: bool
    mark: Mark

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


@dataclass
class Sequence:
    items: list[Tree]
    mark: Mark


@dataclass
class Mapping:
    items: list[tuple[Scalar, Tree]]
    mark: Mark


Tree: TypeAlias = Scalar | Sequence | Mapping


def plain(tree: Tree) -> Any:
    """The Python value of a tree (its depth is bounded)."""
    if isinstance(tree, Scalar):
        return tree.value
    if isinstance(tree, Sequence):
        return [plain(item) for item in tree.items]
    return {key.text: plain(value) for key, value in tree.items}


def repeated_keys(tree: Tree) -> Iterator[Scalar]:
    """The keys that stand for a second time in their mapping, anywhere in a tree."""
    parts: list[Tree] = []
    if isinstance(tree, Sequence):
        parts = tree.items
    elif isinstance(tree, Mapping):
        seen: set[str] = set()
        for key, value in tree.items:
            if key.text in seen:
                yield key
            seen.add(key.text)
            parts.append(value)
    for part in parts:
        yield from repeated_keys(part)


def short(text: str) -> str:
    """A name as a message shows it."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def kind_of(tree: Tree) -> str:
    """What a tree is, in a reader's words."""
    if isinstance(tree, Mapping):
        return "a mapping"
    if isinstance(tree, Sequence):
        return "a list"
    if tree.value is None:
        return "nothing"
    return "an empty text" if not tree.text else f"{type(tree.value).__name__} '{short(tree.text)}'"


def read_text(path: Path, file: str | None = None) -> str:
    """A file as text. Raises ``WorkflowError`` where it cannot be read or is not UTF-8.

    file: the path as the problem shows it.
    """
    file = str(path) if file is None else file
    try:
        data = path.read_bytes()
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


def read_tree(text: str, file: str) -> Tree:
    """The tree of a text's only document. Raises ``WorkflowError`` for what is not plain YAML."""
    try:
        text.encode()
        return _Composer(file).compose(yaml.parse(text, Loader=yaml.CSafeLoader))
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        mark = Mark(file, at.line + 1, at.column + 1) if at else Mark(file, 1, 1)
        message = " ".join(part for part in (error.context, error.problem) if part)
        raise WorkflowError([Problem(mark, "yaml-syntax", message)]) from None
    except (yaml.YAMLError, UnicodeError, ValueError) as error:
        message = " ".join(str(getattr(error, "reason", error)).split())
        mark = Mark(file, 1, 1)
        if isinstance(position := getattr(error, "position", None), int):
            before = text.encode()[:position].decode(errors="ignore")  # the C parser counts bytes
            mark = Mark(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise WorkflowError([Problem(mark, "yaml-syntax", message)]) from None


class _Composer:
    def __init__(self, file: str):
        self.file = file

    def compose(self, events: Iterator[Any]) -> Tree:
        root: Tree | None = None
        stack: list[tuple[Sequence | Mapping, list[Tree]]] = []
        documents = 0
        for event in events:
            done: Tree | None = None
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._fail(event, "several-documents", "expected one YAML document, found a second: remove '---'")
            elif isinstance(event, yaml.AliasEvent):
                self._fail(event, "alias", f"aliases (*{event.anchor}) are not part of the language: write it out")
            elif isinstance(event, (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)):
                self._check(event)
                mark = self._mark(event)
                if isinstance(event, yaml.ScalarEvent):
                    done = Scalar(event.value, not event.style and event.implicit[0], mark)
                else:
                    if len(stack) >= MAX_DEPTH:
                        self._fail(event, "too-deep", f"nested more than {MAX_DEPTH} levels deep")
                    opened = Sequence([], mark) if isinstance(event, yaml.SequenceStartEvent) else Mapping([], mark)
                    stack.append((opened, []))
            elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
                closed, parts = stack.pop()
                if isinstance(closed, Sequence):
                    closed.items = parts
                else:
                    closed.items = [(self._key(k), v) for k, v in zip(parts[::2], parts[1::2], strict=True)]
                done = closed
            if done is not None:
                if stack:
                    stack[-1][1].append(done)
                else:
                    root = done
        if root is None:
            problem = Problem(Mark(self.file, 1, 1), "empty", "the file is empty: expected a workflow")
            raise WorkflowError([problem])
        return root

    def _check(self, event: Any) -> None:
        if event.anchor:
            self._fail(event, "alias", f"anchors (&{event.anchor}) are not part of the language: write it out")
        if event.tag and event.tag != "!":
            self._fail(event, "tag", f"tags ({event.tag}) are not part of the language: remove it")

    def _key(self, key: Tree) -> Scalar:
        if not isinstance(key, Scalar):
            raise WorkflowError([Problem(key.mark, "bad-key", f"expected a name as key, found {kind_of(key)}")])
        if key.plain and key.text == "<<":
            raise WorkflowError([Problem(key.mark, "alias", "merge keys (<<) are not part of the language")])
        return key

    def _mark(self, event: Any) -> Mark:
        return Mark(self.file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _fail(self, event: Any, code: str, message: str) -> None:
        raise WorkflowError([Problem(self._mark(event), code, message)])

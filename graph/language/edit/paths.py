"""Paths into a workflow's text, such as ``nodes.sample.body.guided.in.scale``: where they lead, and to what kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from guidegraph.graph.errors import Mark, suggest
from guidegraph.graph.kinds import list_loop_keys
from guidegraph.graph.language.edit.document import Document, find_value, is_empty, refuse
from guidegraph.graph.language.parse import NODE_KEYS, WORKFLOW_KEYS
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlMapping, YamlSequence, shorten
from guidegraph_runtime.declare.choice_words import CHOOSE, OF

Kind: TypeAlias = Literal["link", "name", "text", "literal", "option", "parameter", "node", "group", "entry"]
"""What a path leads to.

A link or a list of links; a name (``use``, ``as``, ``type``); a text for the reader; a literal; an option, which is a
literal or a link to a parameter; a parameter; a node; a group of named entries; an entry of a list.
"""

PARAM_KEYS = ("default", "type", "help")
LINK_GROUPS = ("carry", "next", "collect")


@dataclass(frozen=True)
class PathStep:
    """A step of a path into a mapping or list. index: of the entry or item."""

    collection: YamlMapping | YamlSequence
    index: int

    @property
    def key(self) -> Scalar | None:
        return self.collection.items[self.index][0] if isinstance(self.collection, YamlMapping) else None

    @property
    def value(self) -> Tree:
        item = self.collection.items[self.index]
        return item[1] if isinstance(item, tuple) else item

    @property
    def name(self) -> str:
        return str(self.index) if self.key is None else self.key.text


@dataclass(frozen=True)
class Location:
    """Where a path leads. missing: the names at the end of the path that do not exist yet."""

    document: Document
    path: str
    steps: tuple[PathStep, ...]
    missing: tuple[str, ...]

    @property
    def tree(self) -> Tree:
        """The last value on the path that exists."""
        return self.steps[-1].value if self.steps else self.document.root

    @property
    def names(self) -> tuple[str, ...]:
        return (*(step.name for step in self.steps), *self.missing)

    @property
    def mark(self) -> Mark:
        """The position of the last value on the path that exists: of its key if it has one."""
        if not self.steps:
            return self.document.root.mark
        return (self.steps[-1].key or self.steps[-1].value).mark

    @property
    def kind(self) -> Kind | None:
        """The kind of value that the path leads to; None if the language does not know the path."""
        return classify(self.document, self.names)


def locate(document: Document, path: str) -> Location:
    """Follow a path as far as it exists. A key may contain dots: the longest one that fits is taken."""
    tree: Tree = document.root
    steps: list[PathStep] = []
    words = path.split(".")
    while words:
        step, length = _step_into(tree, words)
        if step is None:
            break
        steps.append(step)
        tree = step.value
        words = words[length:]
    return Location(document, path, tuple(steps), tuple(words))


def _step_into(tree: Tree, words: Sequence[str]) -> tuple[PathStep | None, int]:
    if isinstance(tree, YamlSequence):
        index = int(words[0]) if words[0].isdecimal() and len(words[0]) < 10 else len(tree.items)
        return (PathStep(tree, index), 1) if index < len(tree.items) else (None, 0)
    if isinstance(tree, YamlMapping):
        indices = {key.text: i for i, (key, _) in enumerate(tree.items)}
        longest = max((key.count(".") + 1 for key in indices), default=0)
        for length in range(min(longest, len(words)), 0, -1):
            if (index := indices.get(".".join(words[:length]), -1)) >= 0:
                return PathStep(tree, index), length
    return None, 0


def locate_value(document: Document, path: str) -> Location:
    """Follow a path that must exist. Raises ``WorkflowError`` with the names that exist at its last step."""
    location = locate(document, path)
    if location.missing:
        refuse_unknown(location)
    return location


def refuse_unknown(location: Location) -> None:
    """Raise ``WorkflowError`` for a path that does not exist, with the nearest names that do."""
    name = location.missing[0]
    parent = ".".join(step.name for step in location.steps)
    tree = location.tree
    if isinstance(tree, YamlMapping):
        names = [key.text for key, _ in tree.items]
        hint = suggest(name[:60], names, "it has", limit=30)
    elif isinstance(tree, YamlSequence):
        hint = f"it is a list of {len(tree.items)}, counted from 0"
    else:
        hint = "it is a value without parts" if not is_empty(tree) else "it is empty"
    owner = f"'{shorten(parent)}'" if parent else "the workflow"
    refuse(location.mark, "unknown-path", f"{owner} has no '{shorten(name)}'; {hint}", shorten(location.path))


def classify(document: Document, names: Sequence[str]) -> Kind | None:
    """The kind of value at a path, from its names; None if the language does not know the path."""
    top, *below = names
    if top in ("name", "description") and not below:
        return "text"
    if top == "requires" and len(below) < 2:
        return "text" if below else "group"
    if top == "outputs" and len(below) < 2:
        return "link" if below else "group"
    if top == "params":
        return _classify_parameter(document, below)
    return _classify_in_block(find_value(document.root, "nodes"), below) if top == "nodes" else None


def _classify_parameter(document: Document, names: Sequence[str]) -> Kind | None:
    if not names:
        return "group"
    name, *below = names
    if not below:
        return "parameter"
    if isinstance(find_value(find_value(document.root, "params"), name), YamlSequence):  # params: {sizes: [1, 2]}
        return "literal"
    if below[0] == "default":
        return "literal"
    return {"type": "name", "help": "text"}.get(below[0]) if len(below) == 1 else None  # type: ignore[return-value]


def _classify_in_block(block: Tree | None, names: Sequence[str]) -> Kind | None:
    position = 0
    while position < len(names):
        node = find_value(block, names[position])
        if position + 1 == len(names):
            return "node"
        if names[position + 1] != "body":
            return _classify_in_node(names[position + 1 :])
        block, position = find_value(node, "body"), position + 2
    return "group"


def _classify_in_node(names: Sequence[str]) -> Kind | None:
    group, *below = names
    if group == CHOOSE:
        if not below or below == [OF]:
            return "group"
        return "link" if len(below) == (2 if below[0] == OF else 1) else None
    if group == "preview" and below:
        return "option" if below[0] == "every" else _classify_in_node(below) if below[0] in NODE_KEYS else None
    if group == "train":
        if len(below) < 2:
            return "entry" if below else "group"
        if below[1] in ("model", "loss"):
            return ("name" if below[1] == "model" else "link") if len(below) == 2 else None
        return "option"
    if group == "use":
        return None if below else "name"
    if group == "loop":
        return {(): "group", ("over",): "link", ("as",): "name"}.get(tuple(below))  # type: ignore[return-value]
    if group == "in" or group in LINK_GROUPS:
        limit = 2 if group == "in" else 1  # an input may be a list of links
        return "group" if not below else "link" if len(below) <= limit else None
    if group == "with":
        return "literal" if below else "group"
    if group in ("steps", "precision", "seed") and not below:
        return "option"
    if group in ("checkpoint", "preview"):
        return "option" if below else "group"
    return None


def key_order(document: Document, names: Sequence[str]) -> tuple[str, ...]:
    """The usual order of the keys of the mapping at a path; empty for entries by name, which keep their own."""
    if not names:
        return WORKFLOW_KEYS
    kind = classify(document, names)
    if kind == "parameter":
        return PARAM_KEYS
    if kind == "node":
        tree = locate(document, ".".join(names)).tree
        return list_loop_keys() if find_value(tree, "loop") is not None else NODE_KEYS
    return ("every", *NODE_KEYS) if names[-1] == "preview" else ()

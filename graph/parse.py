"""From a YAML tree to a parsed workflow: the shape of the language, names and places, nothing resolved yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError, choices
from guidegraph.graph.yamltree import Mapping, Scalar, Sequence, Tree, kind_of, plain, read_tree

VERSION = 1
RESERVED = ("params", "carry", "loop")
MAX_NESTING = 8

Links = Scalar | list[Scalar]


@dataclass
class ParsedNode:
    """A node as written. ``inputs`` are links by port, ``literals`` trees by port, each with its key's place."""

    name: str
    path: str
    mark: Mark
    use: Scalar
    inputs: dict[str, tuple[Mark, Links]] = field(default_factory=dict)
    literals: dict[str, tuple[Mark, Tree]] = field(default_factory=dict)

    def links(self) -> Iterator[Scalar]:
        for _, links in self.inputs.values():
            yield from links if isinstance(links, list) else (links,)


@dataclass
class ParsedTrain:
    """One entry of ``train``."""

    model: Scalar
    loss: Scalar
    options: dict[str, tuple[Mark, Any]]
    mark: Mark


@dataclass
class ParsedLoop:
    """A loop as written."""

    name: str
    path: str
    mark: Mark
    over: Scalar
    item: Scalar
    carry: dict[str, tuple[Mark, Scalar]]
    body: dict[str, ParsedNode | ParsedLoop]
    next: dict[str, tuple[Mark, Scalar]]
    next_mark: Mark
    collect: dict[str, tuple[Mark, Scalar]]
    train: list[ParsedTrain]
    steps: Scalar | None = None
    precision: Scalar | None = None
    checkpoint: dict[str, tuple[Mark, Any]] = field(default_factory=dict)
    seed: Scalar | None = None

    def links(self) -> Iterator[Scalar]:
        """All links of the loop and its bodies."""
        yield self.over
        for group in (self.carry, self.next, self.collect):
            yield from (link for _, link in group.values())
        yield from (t.loss for t in self.train)
        if self.steps is not None and not isinstance(self.steps.value, int):
            yield self.steps
        for inner in self.body.values():
            yield from inner.links()


ParsedOp = ParsedNode | ParsedLoop


@dataclass
class ParsedParam:
    name: str
    mark: Mark
    type: Scalar | None
    default: Tree | None
    help: str


@dataclass
class ParsedWorkflow:
    path: Path
    text: str
    params: dict[str, ParsedParam]
    nodes: dict[str, ParsedOp]
    outputs: dict[str, tuple[Mark, Scalar]]
    requires: dict[str, tuple[Mark, str]]


def parse(text: str, path: Path) -> tuple[ParsedWorkflow | None, list[Problem]]:
    """Parse a workflow; what is wrong is listed, and the rest is kept so that more can be found."""
    try:
        tree = read_tree(text, str(path))
    except WorkflowError as error:
        return None, error.problems
    parser = _Parser()
    return parser.workflow(tree, text, path), parser.problems


class _Parser:
    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, mark: Mark, code: str, message: str, path: str = "") -> None:
        self.problems.append(Problem(mark, code, message, path))

    def mapping(self, tree: Tree | None, path: str, what: str) -> dict[str, tuple[Scalar, Tree]]:
        """The entries of a mapping; a key that stands twice is reported at its second place."""
        if tree is None:
            return {}
        if not isinstance(tree, Mapping):
            if not (isinstance(tree, Scalar) and tree.value is None):
                self.add(tree.mark, "not-a-mapping", f"expected {what} as a mapping, found {kind_of(tree)}", path)
            return {}
        found: dict[str, tuple[Scalar, Tree]] = {}
        for key, value in tree.items:
            if key.text in found:
                self.add(key.mark, "duplicate-key", f"'{key.text}' stands here twice", path)
            else:
                found[key.text] = (key, value)
        return found

    def known(self, entries: dict[str, tuple[Scalar, Tree]], names: tuple[str, ...], path: str) -> None:
        for name, (key, _) in entries.items():
            if name not in names:
                self.add(key.mark, "unknown-key", f"unknown key '{name}'; {choices(name, names, 'keys')}", path)

    def workflow(self, tree: Tree, text: str, path: Path) -> ParsedWorkflow | None:
        if not isinstance(tree, Mapping):
            self.add(tree.mark, "not-a-mapping", f"expected a workflow as a mapping, found {kind_of(tree)}")
            return None
        top = self.mapping(tree, "", "a workflow")
        self.known(top, ("guidegraph", "name", "description", "requires", "params", "nodes", "outputs"), "")
        self._version(top, tree.mark)
        params = {n: p for n, (k, v) in self._named(top, "params").items() if (p := self._param(k, v))}
        nodes = self._region(top.get("nodes"), "nodes", 0)
        if "nodes" not in top:
            self.add(tree.mark, "missing-key", "expected 'nodes': the workflow has none")
        outputs = self._links(top.get("outputs"), "outputs")
        if "outputs" not in top:
            self.add(tree.mark, "missing-key", "expected 'outputs': what the workflow gives")
        elif not outputs:
            self.add(top["outputs"][0].mark, "missing-key", "expected at least one output, such as 'image: decode'")
        requires: dict[str, tuple[Mark, str]] = {}
        for name, (_, value) in self._named(top, "requires").items():
            if isinstance(value, Scalar):
                requires[name] = (value.mark, value.text)
            else:
                self.add(value.mark, "bad-value", f"expected a version such as '>=0.1', found {kind_of(value)}")
        return ParsedWorkflow(path, text, params, nodes, outputs, requires)

    def _version(self, top: dict[str, tuple[Scalar, Tree]], mark: Mark) -> None:
        if "guidegraph" not in top:
            self.add(mark, "missing-key", f"expected 'guidegraph: {VERSION}', the version of the language")
            return
        value = top["guidegraph"][1]
        if not isinstance(value, Scalar) or value.value != VERSION or isinstance(value.value, bool):
            found = kind_of(value)
            self.add(value.mark, "bad-version", f"expected language version {VERSION}, found {found}", "guidegraph")

    def _named(self, top: dict[str, tuple[Scalar, Tree]], key: str) -> dict[str, tuple[Scalar, Tree]]:
        return self.mapping(top[key][1] if key in top else None, key, f"'{key}'")

    def name(self, key: Scalar, path: str) -> bool:
        """Whether a key can be a name that links refer to."""
        if key.text in RESERVED:
            self.add(key.mark, "reserved-name", f"'{key.text}' is reserved; choose another name", path)
            return False
        if not key.text.isidentifier():
            message = f"expected a name of letters, digits and '_', found '{key.text:.60}'"
            self.add(key.mark, "bad-name", message, path)
            return False
        return True

    def _param(self, key: Scalar, tree: Tree) -> ParsedParam | None:
        path = f"params.{key.text}"
        if not key.text.isidentifier():
            self.add(key.mark, "bad-name", f"expected a name of letters, digits and '_', found '{key.text:.60}'", path)
            return None
        if not isinstance(tree, Mapping):
            return ParsedParam(key.text, key.mark, None, tree, "")
        entries = self.mapping(tree, path, "a parameter")
        self.known(entries, ("default", "type", "help"), path)
        kind = entries["type"][1] if "type" in entries else None
        if kind is not None and not isinstance(kind, Scalar):
            self.add(kind.mark, "bad-type", f"expected the name of a type, found {kind_of(kind)}", path)
            kind = None
        if kind is None and "default" not in entries and "type" not in entries:
            self.add(key.mark, "missing-key", "a parameter needs a 'default' or a 'type'", path)
            return None
        text = entries["help"][1] if "help" in entries else None
        default = entries["default"][1] if "default" in entries else None
        return ParsedParam(key.text, key.mark, kind, default, text.text if isinstance(text, Scalar) else "")

    def _links(self, entry: tuple[Scalar, Tree] | None, path: str) -> dict[str, tuple[Mark, Scalar]]:
        """Links by name, for outputs, carries, next and collect."""
        found: dict[str, tuple[Mark, Scalar]] = {}
        for name, (key, value) in self.mapping(entry[1] if entry else None, path, "links by name").items():
            if not name.isidentifier():
                self.add(key.mark, "bad-name", f"expected a name of letters, digits and '_', found '{name:.60}'", path)
            elif isinstance(value, Scalar):
                found[name] = (key.mark, value)
            else:
                self.add(value.mark, "not-a-link", f"expected a link, found {kind_of(value)}", f"{path}.{name}")
        return found

    def _region(self, entry: tuple[Scalar, Tree] | None, path: str, depth: int) -> dict[str, ParsedOp]:
        nodes: dict[str, ParsedOp] = {}
        for name, (key, tree) in self.mapping(entry[1] if entry else None, path, "nodes by name").items():
            if self.name(key, path) and (op := self._op(key, tree, f"{path}.{name}", depth)):
                nodes[name] = op
        return nodes

    def _op(self, key: Scalar, tree: Tree, path: str, depth: int) -> ParsedOp | None:
        if not isinstance(tree, Mapping):
            message = f"expected a node such as {{use: …, in: {{…}}}}, found {kind_of(tree)}"
            self.add(tree.mark, "not-a-mapping", message, path)
            return None
        entries = self.mapping(tree, path, "a node")
        if "loop" in entries:
            return self._loop(key, entries, path, depth)
        self.known(entries, ("use", "in", "with"), path)
        if "use" not in entries:
            self.add(key.mark, "missing-key", "expected 'use', the node's id, or 'loop'", path)
            return None
        use = entries["use"][1]
        if not isinstance(use, Scalar) or not use.text:
            self.add(use.mark, "bad-value", f"expected a node id, found {kind_of(use)}", f"{path}.use")
            return None
        node = ParsedNode(key.text, path, key.mark, use)
        for port, (at, value) in self.mapping(_tree(entries, "in"), f"{path}.in", "links by port").items():
            if (links := self._port_links(value, f"{path}.in.{port}")) is not None:
                node.inputs[port] = (at.mark, links)
        for port, (at, value) in self.mapping(_tree(entries, "with"), f"{path}.with", "values by setting").items():
            node.literals[port] = (at.mark, value)
        return node

    def _port_links(self, value: Tree, path: str) -> Links | None:
        if isinstance(value, Scalar):
            return value
        if isinstance(value, Sequence) and all(isinstance(i, Scalar) for i in value.items):
            return [i for i in value.items if isinstance(i, Scalar)]
        message = f"expected a link or a list of links, found {kind_of(value)}; literals stand under 'with'"
        self.add(value.mark, "not-a-link", message, path)
        return None

    def _loop(self, key: Scalar, entries: dict[str, tuple[Scalar, Tree]], path: str, depth: int) -> ParsedLoop | None:
        names = ("loop", "carry", "body", "next", "collect", "train", "steps", "precision", "checkpoint", "seed")
        self.known(entries, names, path)
        if depth >= MAX_NESTING:
            self.add(key.mark, "too-deep", f"loops nest at most {MAX_NESTING} deep", path)
            return None
        head = self.mapping(entries["loop"][1], f"{path}.loop", "{over: …, as: …}")
        self.known(head, ("over", "as"), f"{path}.loop")
        over, item = (head[n][1] if n in head else None for n in ("over", "as"))
        if not isinstance(over, Scalar) or not isinstance(item, Scalar):
            missing = "over" if not isinstance(over, Scalar) else "as"
            self.add(entries["loop"][0].mark, "missing-key", f"a loop needs '{missing}' as a name", f"{path}.loop")
            return None
        if not item.text.isidentifier() or item.text == "index":
            self.add(item.mark, "bad-name", f"'{item.text}' cannot name a loop's entry", f"{path}.loop.as")
            return None
        if "body" not in entries:
            self.add(key.mark, "missing-key", "a loop needs a 'body'", path)
        next_mark = entries["next"][0].mark if "next" in entries else key.mark
        loop = ParsedLoop(
            key.text,
            path,
            key.mark,
            over,
            item,
            self._links(entries.get("carry"), f"{path}.carry"),
            self._region(entries.get("body"), f"{path}.body", depth + 1),
            self._links(entries.get("next"), f"{path}.next"),
            next_mark,
            self._links(entries.get("collect"), f"{path}.collect"),
            self._train(entries.get("train"), path),
        )
        for name in ("steps", "precision", "seed"):
            value = _tree(entries, name)
            if isinstance(value, Scalar):
                setattr(loop, name, value)
            elif value is not None:
                self.add(value.mark, "bad-value", f"expected one value, found {kind_of(value)}", f"{path}.{name}")
        saved = self.mapping(_tree(entries, "checkpoint"), f"{path}.checkpoint", "{path: …, every: …}")
        self.known(saved, ("path", "every", "check"), f"{path}.checkpoint")
        loop.checkpoint = {name: (value.mark, plain(value)) for name, (_, value) in saved.items()}
        for name in ("steps", "precision", "checkpoint", "seed"):
            if name in entries and not loop.train and "train" not in entries:
                self.add(entries[name][0].mark, "unknown-key", f"'{name}' belongs to a loop with 'train'", path)
        return loop

    def _train(self, entry: tuple[Scalar, Tree] | None, path: str) -> list[ParsedTrain]:
        if entry is None:
            return []
        if not isinstance(entry[1], Sequence):
            self.add(entry[1].mark, "bad-value", "expected a list of {model: …, loss: …}", f"{path}.train")
            return []
        found = []
        for i, tree in enumerate(entry[1].items):
            here = f"{path}.train.{i}"
            entries = self.mapping(tree, here, "{model: …, loss: …}")
            model, loss = (_tree(entries, n) for n in ("model", "loss"))
            if not isinstance(model, Scalar) or not isinstance(loss, Scalar):
                missing = "model" if not isinstance(model, Scalar) else "loss"
                self.add(tree.mark, "missing-key", f"an entry of 'train' needs '{missing}' as a name", here)
                continue
            rest = {n: (v.mark, plain(v)) for n, (_, v) in entries.items() if n not in ("model", "loss")}
            found.append(ParsedTrain(model, loss, rest, tree.mark))
        return found


def _tree(entries: dict[str, tuple[Scalar, Tree]], name: str) -> Tree | None:
    return entries[name][1] if name in entries else None

"""From a YAML tree to a parsed workflow: the shape of the language."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

from guidegraph.graph.errors import Mark, Problem, WorkflowError, choices, closest
from guidegraph.graph.parsed import (
    Links,
    NamedLinks,
    ParsedBroken,
    ParsedLoop,
    ParsedNode,
    ParsedOp,
    ParsedParam,
    ParsedTrain,
    ParsedWorkflow,
)
from guidegraph.graph.yamltree import Mapping, Scalar, Sequence, Tree, kind_of, plain, read_tree, repeated_keys, short

VERSION = 1
RESERVED = ("params", "carry", "loop")
MAX_NESTING = 8

WORKFLOW_KEYS = ("guidegraph", "name", "description", "requires", "params", "nodes", "outputs")
NODE_KEYS = ("use", "in", "with")
LOOP_KEYS = ("loop", "carry", "body", "next", "collect", "train", "steps", "precision", "checkpoint", "seed")
TRAINING_KEYS = ("steps", "precision", "checkpoint", "seed")

Entries: TypeAlias = dict[str, tuple[Scalar, Tree]]


def parse(text: str, path: Path, file: str | None = None) -> tuple[ParsedWorkflow | None, list[Problem]]:
    """Parse a workflow; what is wrong is listed, and the rest is kept so that more can be found.

    file: the path as problems show it.
    """
    file = str(path) if file is None else file
    try:
        tree = read_tree(text, file)
    except WorkflowError as error:
        return None, error.problems
    parser = _Parser()
    return parser.workflow(tree, text, path, file), parser.problems


class _Parser:
    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, mark: Mark, code: str, message: str, path: str = "") -> None:
        self.problems.append(Problem(mark, code, message, path))

    def mapping(self, tree: Tree | None, path: str, what: str) -> Entries | None:
        """The entries of a mapping, none where there is nothing; None for anything else, which is reported."""
        if tree is None or (isinstance(tree, Scalar) and tree.value is None):
            return {}
        if not isinstance(tree, Mapping):
            self.add(tree.mark, "not-a-mapping", f"expected {what}, found {kind_of(tree)}", path)
            return None
        found: Entries = {}
        for key, value in tree.items:
            if key.text in found:
                first = found[key.text][0].mark.line
                message = f"'{short(key.text)}' stands here twice, first in line {first}"
                self.add(key.mark, "duplicate-key", message, path)
            else:
                found[key.text] = (key, value)
        return found

    def known(self, entries: Entries, names: Collection[str], path: str) -> set[str]:
        """Report unknown keys; gives the known ones that they may have been meant as."""
        meant: set[str] = set()
        for name, (key, _) in entries.items():
            if name not in names:
                message = f"unknown key '{short(name)}'; {choices(short(name), names, 'keys')}"
                self.add(key.mark, "unknown-key", message, path)
                guess = closest(name[:60], [n for n in names if n not in entries])
                meant |= {guess} if guess else set()
        return meant

    def value(self, tree: Tree, path: str) -> Tree:
        """A literal: a key that stands twice in it is reported."""
        for key in repeated_keys(tree):
            self.add(key.mark, "duplicate-key", f"'{short(key.text)}' stands here twice", path)
        return tree

    def workflow(self, tree: Tree, text: str, path: Path, file: str) -> ParsedWorkflow | None:
        if not isinstance(tree, Mapping):
            self.add(tree.mark, "not-a-mapping", f"expected a workflow as a mapping, found {kind_of(tree)}")
            return None
        top = self.mapping(tree, "", "a workflow") or {}
        meant = self.known(top, WORKFLOW_KEYS, "")
        unread = set(meant)
        if "guidegraph" not in meant:
            self._version(top, tree.mark)
        for name in ("name", "description"):
            if name in top and not isinstance(top[name][1], Scalar):
                self.add(top[name][1].mark, "bad-value", f"expected a text, found {kind_of(top[name][1])}", name)
        params = self.mapping(_tree(top, "params"), "params", "parameters by name")
        nodes = self._region(top.get("nodes"), "nodes", 0)
        if nodes is None or "nodes" not in top:
            unread.add("nodes")
        if params is None:
            unread.add("params")
        if "nodes" not in top and "nodes" not in meant:
            self.add(tree.mark, "missing-key", "expected 'nodes': the workflow has none")
        outputs = self._links(top.get("outputs"), "outputs")
        if outputs == {} and "outputs" in top:
            message = "expected at least one output, such as 'image: decode'"
            self.add(top["outputs"][0].mark, "missing-key", message, "outputs")
        elif "outputs" not in top and "outputs" not in meant:
            self.add(tree.mark, "missing-key", "expected 'outputs': what the workflow gives, such as {image: decode}")
        return ParsedWorkflow(
            path,
            file,
            text,
            {name: self._param(key, value) for name, (key, value) in (params or {}).items()},
            nodes or {},
            outputs or {},
            self._requires(top),
            frozenset(unread),
        )

    def _version(self, top: Entries, mark: Mark) -> None:
        if "guidegraph" not in top:
            self.add(mark, "missing-key", f"expected 'guidegraph: {VERSION}', the version of the language")
            return
        tree = top["guidegraph"][1]
        value = tree.value if isinstance(tree, Scalar) else None
        if isinstance(value, bool) or value != VERSION:
            message = f"expected {VERSION}, the version of the language, found {kind_of(tree)}"
            if isinstance(value, int) and value > VERSION:
                message += "; a newer guidegraph is needed: pip install --upgrade guidegraph"
            self.add(tree.mark, "bad-version", message, "guidegraph")

    def _requires(self, top: Entries) -> dict[str, tuple[Mark, str]]:
        found: dict[str, tuple[Mark, str]] = {}
        entries = self.mapping(_tree(top, "requires"), "requires", "plugin distributions with their versions")
        for name, (_, tree) in (entries or {}).items():
            if isinstance(tree, Scalar):
                found[name] = (tree.mark, tree.text)
            else:
                message = f"expected a version such as '>=0.1', found {kind_of(tree)}"
                self.add(tree.mark, "bad-value", message, f"requires.{short(name)}")
        return found

    def name(self, key: Scalar, path: str, reserved: Collection[str] = ()) -> bool:
        """Whether a key can be a name that links refer to."""
        if key.text in reserved:
            self.add(key.mark, "reserved-name", f"'{key.text}' is reserved; choose another name", path)
            return False
        if not key.text.isidentifier():
            message = f"expected a name of letters, digits and '_', found '{short(key.text)}'"
            self.add(key.mark, "bad-name", message, path)
            return False
        return True

    def _param(self, key: Scalar, tree: Tree) -> ParsedParam | None:
        path = f"params.{short(key.text)}"
        if not self.name(key, path):
            return None
        if not isinstance(tree, Mapping):
            return ParsedParam(key.text, key.mark, None, self.value(tree, path), "")
        entries = self.mapping(tree, path, "a parameter") or {}
        meant = self.known(entries, ("default", "type", "help"), path)
        kind, default, help = (_tree(entries, name) for name in ("type", "default", "help"))
        if help is not None and not isinstance(help, Scalar):
            self.add(help.mark, "bad-value", f"expected a text, found {kind_of(help)}", f"{path}.help")
        if kind is not None and not isinstance(kind, Scalar):
            self.add(kind.mark, "bad-type", f"expected the name of a type, found {kind_of(kind)}", f"{path}.type")
            return None
        if kind is None and default is None:
            if not meant:
                self.add(key.mark, "missing-key", "a parameter needs a 'default' or a 'type'", path)
            return None
        if default is not None:
            self.value(default, f"{path}.default")
        return ParsedParam(key.text, key.mark, kind, default, help.text if isinstance(help, Scalar) else "")

    def _links(self, entry: tuple[Scalar, Tree] | None, path: str) -> NamedLinks | None:
        """Links by name, for outputs, carries, next and collect."""
        entries = self.mapping(entry[1] if entry else None, path, "links by name")
        found: NamedLinks = {}
        for name, (key, value) in (entries or {}).items():
            if not self.name(key, path):
                continue
            if not isinstance(value, Scalar):
                self.add(value.mark, "not-a-link", f"expected a link, found {kind_of(value)}", f"{path}.{name}")
            found[name] = (key.mark, value if isinstance(value, Scalar) else None)
        return None if entries is None else found

    def _region(self, entry: tuple[Scalar, Tree] | None, path: str, depth: int) -> dict[str, ParsedOp] | None:
        entries = self.mapping(entry[1] if entry else None, path, "nodes by name")
        if entries is None:
            return None
        nodes: dict[str, ParsedOp] = {}
        for name, (key, tree) in entries.items():
            fit = self.name(key, path, RESERVED)
            here = f"{path}.{short(name)}"
            nodes[name] = (self._op(key, tree, here, depth) if fit else None) or ParsedBroken(name, here, key.mark)
        return nodes

    def _op(self, key: Scalar, tree: Tree, path: str, depth: int) -> ParsedOp | None:
        if not isinstance(tree, Mapping):
            message = f"expected a node such as {{use: …, in: {{…}}}}, found {kind_of(tree)}"
            self.add(tree.mark, "not-a-mapping", message, path)
            return None
        entries = self.mapping(tree, path, "a node") or {}
        if "loop" in entries:
            return self._loop(key, entries, path, depth)
        meant = self.known(entries, NODE_KEYS, path)
        if "use" not in entries:
            if "use" not in meant:
                self.add(key.mark, "missing-key", "expected 'use', the node's id, or 'loop'", path)
            return None
        use = entries["use"][1]
        if not isinstance(use, Scalar) or not use.text:
            self.add(use.mark, "bad-value", f"expected a node's id, found {kind_of(use)}", f"{path}.use")
            return None
        node = ParsedNode(key.text, path, key.mark, use)
        inputs = self.mapping(_tree(entries, "in"), f"{path}.in", "links by port")
        for port, (at, value) in (inputs or {}).items():
            node.inputs[port] = (at.mark, self._port_links(value, f"{path}.in.{short(port)}"))
        literals = self.mapping(_tree(entries, "with"), f"{path}.with", "values by setting")
        for port, (at, value) in (literals or {}).items():
            node.literals[port] = (at.mark, self.value(value, f"{path}.with.{short(port)}"))
        unknown = (tree for name, (_, tree) in entries.items() if name not in NODE_KEYS)
        node.partial = inputs is None or literals is None or any(isinstance(tree, Mapping) for tree in unknown)
        return node

    def _port_links(self, value: Tree, path: str) -> Links | None:
        if isinstance(value, Scalar):
            return value
        if isinstance(value, Sequence) and all(isinstance(i, Scalar) for i in value.items):
            return value
        message = f"expected a link or a list of links, found {kind_of(value)}; literals stand under 'with'"
        self.add(value.mark, "not-a-link", message, path)
        return None

    def _loop(self, key: Scalar, entries: Entries, path: str, depth: int) -> ParsedLoop | None:
        unread = self.known(entries, LOOP_KEYS, path)
        if depth >= MAX_NESTING:
            self.add(key.mark, "too-deep", f"loops nest at most {MAX_NESTING} deep", path)
            return None
        if "body" not in entries:
            if "body" not in unread:
                self.add(key.mark, "missing-key", "a loop needs a 'body', nodes by name", path)
            unread.add("body")
        over, item = self._head(entries, f"{path}.loop")
        carry, after, collect = (self._links(entries.get(n), f"{path}.{n}") for n in ("carry", "next", "collect"))
        body = self._region(entries.get("body"), f"{path}.body", depth + 1)
        train = self._train(entries.get("train"), path)
        groups = {"carry": carry, "next": after, "collect": collect, "body": body, "train": train}
        unread |= {name for name, group in groups.items() if group is None}
        next_mark = entries["next"][0].mark if "next" in entries else key.mark
        loop = ParsedLoop(
            key.text,
            path,
            key.mark,
            over,
            item,
            carry or {},
            body or {},
            after or {},
            next_mark,
            collect or {},
            train or [],
            frozenset(unread),
        )
        self._training(loop, entries)
        return loop

    def _head(self, entries: Entries, path: str) -> tuple[Scalar | None, Scalar | None]:
        """``over`` and ``as``, where they are right."""
        key, tree = entries["loop"]
        head = self.mapping(tree, path, "{over: …, as: …}")
        if head is None:
            return None, None
        meant = self.known(head, ("over", "as"), path)
        for name in ("over", "as"):
            if name not in head and name not in meant:
                self.add(key.mark, "missing-key", f"a loop needs '{name}': {{over: LINK, as: NAME}}", path)
        over, item = _tree(head, "over"), _tree(head, "as")
        if over is not None and not isinstance(over, Scalar):
            message = f"expected a link, found {kind_of(over)}; a loop runs over what a node or a parameter gives"
            self.add(over.mark, "not-a-link", message, f"{path}.over")
        if item is not None and not isinstance(item, Scalar):
            self.add(item.mark, "bad-name", f"expected a name, found {kind_of(item)}", f"{path}.as")
            item = None
        if item is not None and not self.name(item, f"{path}.as", (*RESERVED, "index")):
            item = None
        return over if isinstance(over, Scalar) else None, item

    def _training(self, loop: ParsedLoop, entries: Entries) -> None:
        """What a loop with ``train`` may have besides."""
        for name in ("steps", "precision", "seed"):
            value = _tree(entries, name)
            if isinstance(value, Scalar):
                setattr(loop, name, value)
            elif value is not None:
                self.add(value.mark, "bad-value", f"expected one value, found {kind_of(value)}", f"{loop.path}.{name}")
        if "checkpoint" in entries:
            where = f"{loop.path}.checkpoint"
            saved = self.mapping(entries["checkpoint"][1], where, "{path: …, every: …}")
            meant = self.known(saved or {}, ("path", "every", "check"), where)
            loop.checkpoint = {n: (v.mark, plain(self.value(v, where))) for n, (_, v) in (saved or {}).items()}
            if saved is not None and "path" not in meant:
                loop.checkpoint_mark = entries["checkpoint"][0].mark
        for name in TRAINING_KEYS:
            if name in entries and "train" not in entries and "train" not in loop.unread:
                self.add(entries[name][0].mark, "unknown-key", f"'{name}' belongs to a loop with 'train'", loop.path)

    def _train(self, entry: tuple[Scalar, Tree] | None, path: str) -> list[ParsedTrain] | None:
        if entry is None:
            return []
        tree = entry[1]
        if not isinstance(tree, Sequence) or not tree.items:
            found = "an empty list" if isinstance(tree, Sequence) else kind_of(tree)
            message = f"expected a list of {{model: …, loss: …}}, found {found}"
            self.add(tree.mark, "bad-value", message, f"{path}.train")
            return None
        trained: list[ParsedTrain] = []
        whole = True
        for i, item in enumerate(tree.items):
            here = f"{path}.train.{i}"
            entries = self.mapping(item, here, "{model: …, loss: …}")
            names = {n: t for n in ("model", "loss") if isinstance(t := _tree(entries or {}, n), Scalar)}
            if entries is None or len(names) < 2:
                if entries is not None:
                    missing = "loss" if "model" in names else "model"
                    self.add(item.mark, "missing-key", f"an entry of 'train' needs '{missing}', a name", here)
                whole = False
                continue
            rest = {
                n: (k.mark, v.mark, plain(self.value(v, f"{here}.{short(n)}")))
                for n, (k, v) in entries.items()
                if n not in names
            }
            trained.append(ParsedTrain(names["model"], names["loss"], rest, item.mark))
        return trained if whole else None


def _tree(entries: Entries, name: str) -> Tree | None:
    return entries[name][1] if name in entries else None

"""From a YAML tree to a parsed workflow: the shape of the language."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeAlias

from guidegraph.graph.errors import Mark, Problem, choices, closest
from guidegraph.graph.parse_choice import CHOOSE, parse_choice
from guidegraph.graph.parsed import (
    Links,
    NamedLinks,
    ParsedBroken,
    ParsedLoop,
    ParsedNode,
    ParsedOp,
    ParsedParam,
    ParsedPreview,
    ParsedTrain,
    ParsedWorkflow,
)
from guidegraph.graph.yamltree import (
    Broken,
    Mapping,
    Scalar,
    Sequence,
    Tree,
    broken,
    kind_of,
    plain,
    read_tree,
    repeated_keys,
    short,
)

VERSION = 1
RESERVED = ("params", "carry", "loop")
MAX_NESTING = 8

WORKFLOW_KEYS = ("guidegraph", "name", "description", "requires", "params", "nodes", "outputs")
NODE_KEYS = ("use", "in", "with")
LOOP_KEYS = ("loop", "carry", "body", "next", "collect", "train", "steps", "precision", "checkpoint", "seed", "preview")
TRAINING_KEYS = ("steps", "precision", "checkpoint", "seed", "preview")

Entries: TypeAlias = dict[str, tuple[Scalar, Tree]]


def parse(text: str, path: Path, file: str | None = None) -> tuple[ParsedWorkflow | None, list[Problem]]:
    """Parse a workflow; what is wrong is listed, and the rest is kept so that more can be found.

    file: the path as problems show it.
    """
    file = str(path) if file is None else file
    tree, problems = read_tree(text, file)
    if tree is None:
        return None, problems
    parser = Parser(problems)
    return parser.workflow(tree, text, path, file), parser.problems


class Parser:
    """Reads a workflow's tree and notes what is wrong with its shape."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems

    def add(self, mark: Mark, code: str, message: str, path: str = "") -> None:
        self.problems.append(Problem(mark, code, message, path))

    def expected(self, what: str, tree: Tree, code: str, path: str, hint: str = "") -> None:
        """Something else stands there than is expected; what is broken was reported as that."""
        if not isinstance(tree, Broken):
            self.add(tree.mark, code, f"expected {what}, found {kind_of(tree)}{hint}", path)

    def mapping(self, tree: Tree | None, path: str, what: str) -> Entries | None:
        """The entries of a mapping, none where there is nothing; None for anything else, which is reported."""
        if tree is None or (isinstance(tree, Scalar) and tree.value is None):
            return {}
        if not isinstance(tree, Mapping):
            self.expected(what, tree, "not-a-mapping", path)
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
            if (start := name.partition(":")[0]) != name and start in names:
                message = f"expected a space after the colon: '{start}: {short(name[len(start) + 1 :])}'"
                self.add(key.mark, "unknown-key", message, path)
                meant.add(start)
            elif name not in names:
                message = f"unknown key '{short(name)}'; {choices(short(name), names, 'keys')}"
                self.add(key.mark, "unknown-key", message, path)
                guess = closest(name[:60], [n for n in names if n not in entries])
                meant |= {guess} if guess else set()
        return meant

    def value(self, tree: Tree, path: str) -> Tree | None:
        """A literal, None where it is broken; a key that stands twice in it is reported."""
        for key in repeated_keys(tree):
            self.add(key.mark, "duplicate-key", f"'{short(key.text)}' stands here twice", path)
        return None if broken(tree) else tree

    def workflow(self, tree: Tree, text: str, path: Path, file: str) -> ParsedWorkflow | None:
        if isinstance(tree, Scalar) and tree.value is None:
            self.add(tree.mark, "empty", "the file is empty: expected a workflow")
            return None
        if not isinstance(tree, Mapping):
            self.expected("a workflow, a mapping", tree, "not-a-mapping", "")
            return None
        top = self.mapping(tree, "", "a workflow") or {}
        meant = self.known(top, WORKFLOW_KEYS, "")
        unread = set(meant)
        if "guidegraph" not in meant:
            self._version(top, tree.mark)
        for name in ("name", "description"):
            if name in top and not isinstance(top[name][1], Scalar):
                self.expected("a text", top[name][1], "bad-value", name)
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
            newer = isinstance(value, int) and value > VERSION
            hint = "; a newer guidegraph is needed: pip install --upgrade guidegraph" if newer else ""
            self.expected(f"{VERSION}, the version of the language", tree, "bad-version", "guidegraph", hint)

    def _requires(self, top: Entries) -> dict[str, tuple[Mark, Scalar]]:
        found: dict[str, tuple[Mark, Scalar]] = {}
        entries = self.mapping(_tree(top, "requires"), "requires", "plugin distributions with their versions")
        for name, (key, tree) in (entries or {}).items():
            if isinstance(tree, Scalar):
                found[name] = (key.mark, tree)
            else:
                self.expected("a version such as '>=0.1'", tree, "bad-value", f"requires.{short(name)}")
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
            literal = self.value(tree, path)
            return None if literal is None else ParsedParam(key.text, key.mark, None, literal, "")
        entries = self.mapping(tree, path, "a parameter") or {}
        meant = self.known(entries, ("default", "type", "help"), path)
        kind, default, help = (_tree(entries, name) for name in ("type", "default", "help"))
        if help is not None and not isinstance(help, Scalar):
            self.expected("a text", help, "bad-value", f"{path}.help")
        if kind is not None and not isinstance(kind, Scalar):
            self.expected("the name of a type", kind, "bad-type", f"{path}.type")
            return None
        if kind is None and default is None:
            if not meant:
                self.add(key.mark, "missing-key", "a parameter needs a 'default' or a 'type'", path)
            return None
        if default is not None and self.value(default, f"{path}.default") is None:
            return None
        return ParsedParam(key.text, key.mark, kind, default, help.text if isinstance(help, Scalar) else "")

    def _links(self, entry: tuple[Scalar, Tree] | None, path: str) -> NamedLinks | None:
        """Links by name, for outputs, carries, next and collect."""
        entries = self.mapping(entry[1] if entry else None, path, "links by name")
        found: NamedLinks = {}
        for name, (key, value) in (entries or {}).items():
            if not self.name(key, path):
                continue
            if not isinstance(value, Scalar):
                self.expected("a link", value, "not-a-link", f"{path}.{name}")
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
            self.expected("a node such as {use: …, in: {…}}", tree, "not-a-mapping", path)
            return None
        entries = self.mapping(tree, path, "a node") or {}
        if CHOOSE in entries:
            return parse_choice(self, key, entries, path)
        if "loop" in entries or ("use" not in entries and {"carry", "body"} & entries.keys()):
            return self._loop(key, entries, path, depth)
        return self._node(key, entries, path, NODE_KEYS)

    def _node(self, key: Scalar, entries: Entries, path: str, keys: tuple[str, ...]) -> ParsedNode | None:
        meant = self.known(entries, keys, path)
        if "use" not in entries:
            if "use" not in meant:
                self.add(key.mark, "missing-key", "expected 'use', the node's id, 'loop' or 'choose'", path)
            return None
        use = entries["use"][1]
        if not isinstance(use, Scalar) or not use.text:
            self.expected("a node's id", use, "bad-value", f"{path}.use")
            return None
        node = ParsedNode(key.text, path, key.mark, use)
        inputs = self.mapping(_tree(entries, "in"), f"{path}.in", "links by port")
        for port, (at, value) in (inputs or {}).items():
            node.inputs[port] = (at.mark, self._port_links(value, f"{path}.in.{short(port)}"))
        literals = self.mapping(_tree(entries, "with"), f"{path}.with", "values by setting")
        for port, (at, value) in (literals or {}).items():
            node.literals[port] = (at.mark, self.value(value, f"{path}.with.{short(port)}"))
        unknown = (tree for name, (_, tree) in entries.items() if name not in keys)
        node.partial = inputs is None or literals is None or any(isinstance(tree, Mapping) for tree in unknown)
        return node

    def _port_links(self, value: Tree, path: str) -> Links | None:
        if isinstance(value, Scalar):
            return value
        if isinstance(value, Sequence) and all(isinstance(i, Scalar) for i in value.items):
            return value
        if not broken(value):
            self.expected("a link or a list of links", value, "not-a-link", path, "; literals stand under 'with'")
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
        over, item = self._head(key, entries, path, unread)
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

    def _head(self, node: Scalar, entries: Entries, path: str, unread: set[str]) -> tuple[Scalar | None, Scalar | None]:
        """``over`` and ``as``, where they are right."""
        if "loop" not in entries:
            if "loop" not in unread:
                self.add(node.mark, "missing-key", "a node with a 'body' needs 'loop': {over: LINK, as: NAME}", path)
            return None, None
        path = f"{path}.loop"
        key, tree = entries["loop"]
        head = self.mapping(tree, path, "{over: …, as: …}")
        if head is None:
            return None, None
        meant = self.known(head, ("over", "as"), path)
        missing = {"over", "as"} - head.keys()
        if len(head) != 2 or len(missing) != 1:
            for name in sorted(missing - meant):
                self.add(key.mark, "missing-key", f"a loop needs '{name}': {{over: LINK, as: NAME}}", path)
        over, item = _tree(head, "over"), _tree(head, "as")
        if over is not None and not isinstance(over, Scalar):
            hint = "; a loop runs over what a node or a parameter gives"
            self.expected("a link", over, "not-a-link", f"{path}.over", hint)
        if item is not None and not isinstance(item, Scalar):
            self.expected("a name", item, "bad-name", f"{path}.as")
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
                self.expected("one value", value, "bad-value", f"{loop.path}.{name}")
        if "checkpoint" in entries:
            where = f"{loop.path}.checkpoint"
            saved = self.mapping(entries["checkpoint"][1], where, "{path: …, every: …}")
            meant = self.known(saved or {}, ("path", "every", "check"), where)
            for name, (_, tree) in (saved or {}).items():
                if (literal := self.value(tree, f"{where}.{short(name)}")) is not None:
                    loop.checkpoint[name] = (tree.mark, literal)
            if saved is not None and "path" not in saved and "path" not in meant:
                self.add(entries["checkpoint"][0].mark, "missing-key", "a checkpoint needs its 'path', a folder", where)
        if "preview" in entries:
            self._preview(loop, *entries["preview"])
        for name in TRAINING_KEYS:
            if name in entries and "train" not in entries and "train" not in loop.unread:
                self.add(entries[name][0].mark, "unknown-key", f"'{name}' belongs to a loop with 'train'", loop.path)

    def _preview(self, loop: ParsedLoop, key: Scalar, tree: Tree) -> None:
        where = f"{loop.path}.preview"
        entries = self.mapping(tree, where, "{every: …, use: …, in: {…}}")
        node = self._node(key, entries, where, ("every", *NODE_KEYS)) if entries is not None else None
        if entries is None or node is None:
            return
        if "every" not in entries:
            self.add(key.mark, "missing-key", "a preview needs 'every', the number of steps between two", where)
        elif (every := self.value(entries["every"][1], f"{where}.every")) is not None:
            loop.preview = ParsedPreview(node, every)

    def _train(self, entry: tuple[Scalar, Tree] | None, path: str) -> list[ParsedTrain] | None:
        if entry is None:
            return []
        tree = entry[1]
        if not isinstance(tree, Sequence) or not tree.items:
            self.expected("a list of {model: …, loss: …}", tree, "bad-value", f"{path}.train")
            return None
        trained: list[ParsedTrain] = []
        whole = True
        for i, item in enumerate(tree.items):
            here = f"{path}.train.{i}"
            entries = self.mapping(item, here, "{model: …, loss: …}")
            names = {n: t for n in ("model", "loss") if isinstance(t := _tree(entries or {}, n), Scalar)}
            if entries is None or len(names) < 2:
                if entries is not None and not broken(item):
                    missing = "loss" if "model" in names else "model"
                    self.add(item.mark, "missing-key", f"an entry of 'train' needs '{missing}', a name", here)
                whole = False
                continue
            rest = {}
            for name, (key, value) in entries.items():
                if name not in names and (literal := self.value(value, f"{here}.{short(name)}")) is not None:
                    rest[name] = (key.mark, value.mark, plain(literal))
            trained.append(ParsedTrain(names["model"], names["loss"], rest))
        return trained if whole else None


def _tree(entries: Entries, name: str) -> Tree | None:
    return entries[name][1] if name in entries else None

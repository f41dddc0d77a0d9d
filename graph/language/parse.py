"""Parsing of a workflow: from its YAML tree to its syntax tree."""

from __future__ import annotations

from pathlib import Path

from guidegraph.graph.errors import Mark, Problem
from guidegraph.graph.language.parse_choice import CHOOSE, parse_choice
from guidegraph.graph.language.syntax import (
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
from guidegraph.graph.language.tree_reader import Entries, TreeReader
from guidegraph.graph.language.yaml_tree import (
    Scalar,
    Tree,
    YamlMapping,
    YamlSequence,
    has_broken,
    read_tree,
    shorten,
    to_python,
)

VERSION = 1
RESERVED = ("params", "carry", "loop")
MAX_NESTING = 8

WORKFLOW_KEYS = ("guidegraph", "name", "description", "requires", "params", "nodes", "outputs")
NODE_KEYS = ("use", "in", "with")
LOOP_KEYS = ("loop", "carry", "body", "next", "collect", "train", "steps", "precision", "checkpoint", "seed", "preview")
TRAINING_KEYS = ("steps", "precision", "checkpoint", "seed", "preview")


def parse(text: str, path: Path, file: str | None = None) -> tuple[ParsedWorkflow | None, list[Problem]]:
    """Parse a workflow; returns the syntax tree, with gaps where it is invalid, and the problems.

    file: the path for messages.
    """
    file = str(path) if file is None else file
    tree, problems = read_tree(text, file)
    if tree is None:
        return None, problems
    parser = Parser(problems)
    return parser.read_workflow(tree, text, path, file), parser.problems


class Parser(TreeReader):
    """Reads the YAML tree of a workflow."""

    def read_workflow(self, tree: Tree, text: str, path: Path, file: str) -> ParsedWorkflow | None:
        if isinstance(tree, Scalar) and tree.value is None:
            self.report(tree.mark, "empty", "the file is empty: expected a workflow")
            return None
        if not isinstance(tree, YamlMapping):
            self.report_unexpected("a workflow, a mapping", tree, "not-a-mapping", "")
            return None
        top = self.read_mapping(tree, "", "a workflow") or {}
        meant = self.report_unknown_keys(top, WORKFLOW_KEYS, "")
        unread = set(meant)
        if "guidegraph" not in meant:
            self._check_version(top, tree.mark)
        for name in ("name", "description"):
            if name in top and not isinstance(top[name][1], Scalar):
                self.report_unexpected("a text", top[name][1], "bad-value", name)
        params = self.read_mapping(_get_tree(top, "params"), "params", "parameters by name")
        nodes = self._read_block(top.get("nodes"), "nodes", 0)
        if nodes is None or "nodes" not in top:
            unread.add("nodes")
        if params is None:
            unread.add("params")
        if "nodes" not in top and "nodes" not in meant:
            self.report(tree.mark, "missing-key", "expected 'nodes': the workflow has none")
        outputs = self._read_links(top.get("outputs"), "outputs")
        if outputs == {} and "outputs" in top:
            message = "expected at least one output, such as 'image: decode'"
            self.report(top["outputs"][0].mark, "missing-key", message, "outputs")
        elif "outputs" not in top and "outputs" not in meant:
            self.report(tree.mark, "missing-key", "expected 'outputs', the results by name, such as {image: decode}")
        return ParsedWorkflow(
            path,
            file,
            text,
            {name: self._read_param(key, value) for name, (key, value) in (params or {}).items()},
            nodes or {},
            outputs or {},
            self._read_requires(top),
            frozenset(unread),
        )

    def _check_version(self, top: Entries, mark: Mark) -> None:
        if "guidegraph" not in top:
            self.report(mark, "missing-key", f"expected 'guidegraph: {VERSION}', the version of the language")
            return
        tree = top["guidegraph"][1]
        value = tree.value if isinstance(tree, Scalar) else None
        if isinstance(value, bool) or value != VERSION:
            newer = isinstance(value, int) and value > VERSION
            hint = "; a newer guidegraph is needed: pip install --upgrade guidegraph" if newer else ""
            self.report_unexpected(f"{VERSION}, the version of the language", tree, "bad-version", "guidegraph", hint)

    def _read_requires(self, top: Entries) -> dict[str, tuple[Mark, Scalar]]:
        requires: dict[str, tuple[Mark, Scalar]] = {}
        entries = self.read_mapping(_get_tree(top, "requires"), "requires", "plugin distributions with their versions")
        for name, (key, tree) in (entries or {}).items():
            if isinstance(tree, Scalar):
                requires[name] = (key.mark, tree)
            else:
                self.report_unexpected("a version such as '>=0.1'", tree, "bad-value", f"requires.{shorten(name)}")
        return requires

    def _read_param(self, key: Scalar, tree: Tree) -> ParsedParam | None:
        path = f"params.{shorten(key.text)}"
        if not self.check_name(key, path):
            return None
        if not isinstance(tree, YamlMapping):
            literal = self.read_literal(tree, path)
            return None if literal is None else ParsedParam(key.text, key.mark, None, literal, "")
        entries = self.read_mapping(tree, path, "a parameter") or {}
        meant = self.report_unknown_keys(entries, ("default", "type", "help"), path)
        kind, default, help = (_get_tree(entries, name) for name in ("type", "default", "help"))
        if help is not None and not isinstance(help, Scalar):
            self.report_unexpected("a text", help, "bad-value", f"{path}.help")
        if kind is not None and not isinstance(kind, Scalar):
            self.report_unexpected("the name of a type", kind, "bad-type", f"{path}.type")
            return None
        if kind is None and default is None:
            if not meant:
                self.report(key.mark, "missing-key", "a parameter needs a 'default' or a 'type'", path)
            return None
        if default is not None and self.read_literal(default, f"{path}.default") is None:
            return None
        return ParsedParam(key.text, key.mark, kind, default, help.text if isinstance(help, Scalar) else "")

    def _read_links(self, entry: tuple[Scalar, Tree] | None, path: str) -> NamedLinks | None:
        """Links by name, of ``outputs``, ``carry``, ``next`` or ``collect``."""
        entries = self.read_mapping(entry[1] if entry else None, path, "links by name")
        links: NamedLinks = {}
        for name, (key, value) in (entries or {}).items():
            if not self.check_name(key, path):
                continue
            if not isinstance(value, Scalar):
                self.report_unexpected("a link", value, "not-a-link", f"{path}.{name}")
            links[name] = (key.mark, value if isinstance(value, Scalar) else None)
        return None if entries is None else links

    def _read_block(self, entry: tuple[Scalar, Tree] | None, path: str, depth: int) -> dict[str, ParsedOp] | None:
        entries = self.read_mapping(entry[1] if entry else None, path, "nodes by name")
        if entries is None:
            return None
        nodes: dict[str, ParsedOp] = {}
        for name, (key, tree) in entries.items():
            is_valid = self.check_name(key, path, RESERVED)
            node_path = f"{path}.{shorten(name)}"
            nodes[name] = (self._read_op(key, tree, node_path, depth) if is_valid else None) or ParsedBroken(
                name, node_path, key.mark
            )
        return nodes

    def _read_op(self, key: Scalar, tree: Tree, path: str, depth: int) -> ParsedOp | None:
        if not isinstance(tree, YamlMapping):
            self.report_unexpected("a node such as {use: …, in: {…}}", tree, "not-a-mapping", path)
            return None
        entries = self.read_mapping(tree, path, "a node") or {}
        if CHOOSE in entries:
            return parse_choice(self, key, entries, path)
        if "loop" in entries or ("use" not in entries and {"carry", "body"} & entries.keys()):
            return self._read_loop(key, entries, path, depth)
        return self._read_node(key, entries, path, NODE_KEYS)

    def _read_node(self, key: Scalar, entries: Entries, path: str, keys: tuple[str, ...]) -> ParsedNode | None:
        meant = self.report_unknown_keys(entries, keys, path)
        if "use" not in entries:
            if "use" not in meant:
                self.report(key.mark, "missing-key", "expected 'use', the node's id, 'loop' or 'choose'", path)
            return None
        use = entries["use"][1]
        if not isinstance(use, Scalar) or not use.text:
            self.report_unexpected("a node's id", use, "bad-value", f"{path}.use")
            return None
        node = ParsedNode(key.text, path, key.mark, use)
        inputs = self.read_mapping(_get_tree(entries, "in"), f"{path}.in", "links by port")
        for port, (port_key, value) in (inputs or {}).items():
            node.inputs[port] = (port_key.mark, self._read_port_links(value, f"{path}.in.{shorten(port)}"))
        literals = self.read_mapping(_get_tree(entries, "with"), f"{path}.with", "values by setting")
        for port, (port_key, value) in (literals or {}).items():
            node.literals[port] = (port_key.mark, self.read_literal(value, f"{path}.with.{shorten(port)}"))
        unknown = (tree for name, (_, tree) in entries.items() if name not in keys)
        node.partial = inputs is None or literals is None or any(isinstance(tree, YamlMapping) for tree in unknown)
        return node

    def _read_port_links(self, value: Tree, path: str) -> Links | None:
        if isinstance(value, Scalar):
            return value
        if isinstance(value, YamlSequence) and all(isinstance(i, Scalar) for i in value.items):
            return value
        if not has_broken(value):
            self.report_unexpected("a link or a list of links", value, "not-a-link", path, "; literals go under 'with'")
        return None

    def _read_loop(self, key: Scalar, entries: Entries, path: str, depth: int) -> ParsedLoop | None:
        unread = self.report_unknown_keys(entries, LOOP_KEYS, path)
        if depth >= MAX_NESTING:
            self.report(key.mark, "too-deep", f"loops nest at most {MAX_NESTING} deep", path)
            return None
        if "body" not in entries:
            if "body" not in unread:
                self.report(key.mark, "missing-key", "a loop needs a 'body', nodes by name", path)
            unread.add("body")
        over, item = self._read_loop_head(key, entries, path, unread)
        carry, after, collect = (self._read_links(entries.get(n), f"{path}.{n}") for n in ("carry", "next", "collect"))
        body = self._read_block(entries.get("body"), f"{path}.body", depth + 1)
        train = self._read_train(entries.get("train"), path)
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
        self._read_training(loop, entries)
        return loop

    def _read_loop_head(
        self, loop_key: Scalar, entries: Entries, path: str, unread: set[str]
    ) -> tuple[Scalar | None, Scalar | None]:
        """``over`` and ``as``, each None if invalid."""
        if "loop" not in entries:
            if "loop" not in unread:
                self.report(
                    loop_key.mark, "missing-key", "a node with a 'body' needs 'loop': {over: LINK, as: NAME}", path
                )
            return None, None
        path = f"{path}.loop"
        key, tree = entries["loop"]
        head = self.read_mapping(tree, path, "{over: …, as: …}")
        if head is None:
            return None, None
        meant = self.report_unknown_keys(head, ("over", "as"), path)
        missing = {"over", "as"} - head.keys()
        if len(head) != 2 or len(missing) != 1:
            for name in sorted(missing - meant):
                self.report(key.mark, "missing-key", f"a loop needs '{name}': {{over: LINK, as: NAME}}", path)
        over, item = _get_tree(head, "over"), _get_tree(head, "as")
        if over is not None and not isinstance(over, Scalar):
            hint = "; a loop runs over what a node or a parameter gives"
            self.report_unexpected("a link", over, "not-a-link", f"{path}.over", hint)
        if item is not None and not isinstance(item, Scalar):
            self.report_unexpected("a name", item, "bad-name", f"{path}.as")
            item = None
        if item is not None and not self.check_name(item, f"{path}.as", (*RESERVED, "index")):
            item = None
        return over if isinstance(over, Scalar) else None, item

    def _read_training(self, loop: ParsedLoop, entries: Entries) -> None:
        """Read the options that only a loop with ``train`` may have."""
        for name in ("steps", "precision", "seed"):
            value = _get_tree(entries, name)
            if isinstance(value, Scalar):
                setattr(loop, name, value)
            elif value is not None:
                self.report_unexpected("one value", value, "bad-value", f"{loop.path}.{name}")
        if "checkpoint" in entries:
            checkpoint_path = f"{loop.path}.checkpoint"
            checkpoint = self.read_mapping(entries["checkpoint"][1], checkpoint_path, "{path: …, every: …}")
            meant = self.report_unknown_keys(checkpoint or {}, ("path", "every", "check"), checkpoint_path)
            for name, (_, tree) in (checkpoint or {}).items():
                if (literal := self.read_literal(tree, f"{checkpoint_path}.{shorten(name)}")) is not None:
                    loop.checkpoint[name] = (tree.mark, literal)
            if checkpoint is not None and "path" not in checkpoint and "path" not in meant:
                self.report(
                    entries["checkpoint"][0].mark,
                    "missing-key",
                    "a checkpoint needs its 'path', a folder",
                    checkpoint_path,
                )
        if "preview" in entries:
            self._read_preview(loop, *entries["preview"])
        for name in TRAINING_KEYS:
            if name in entries and "train" not in entries and "train" not in loop.unread:
                self.report(entries[name][0].mark, "unknown-key", f"'{name}' belongs to a loop with 'train'", loop.path)

    def _read_preview(self, loop: ParsedLoop, key: Scalar, tree: Tree) -> None:
        path = f"{loop.path}.preview"
        entries = self.read_mapping(tree, path, "{every: …, use: …, in: {…}}")
        node = self._read_node(key, entries, path, ("every", *NODE_KEYS)) if entries is not None else None
        if entries is None or node is None:
            return
        if "every" not in entries:
            self.report(key.mark, "missing-key", "a preview needs 'every', the number of steps between two", path)
        elif (every := self.read_literal(entries["every"][1], f"{path}.every")) is not None:
            loop.preview = ParsedPreview(node, every)

    def _read_train(self, entry: tuple[Scalar, Tree] | None, path: str) -> list[ParsedTrain] | None:
        if entry is None:
            return []
        tree = entry[1]
        if not isinstance(tree, YamlSequence) or not tree.items:
            self.report_unexpected("a list of {model: …, loss: …}", tree, "bad-value", f"{path}.train")
            return None
        models: list[ParsedTrain] = []
        is_valid = True
        for i, item in enumerate(tree.items):
            entry_path = f"{path}.train.{i}"
            entries = self.read_mapping(item, entry_path, "{model: …, loss: …}")
            names = {n: t for n in ("model", "loss") if isinstance(t := _get_tree(entries or {}, n), Scalar)}
            if entries is None or len(names) < 2:
                if entries is not None and not has_broken(item):
                    missing = "loss" if "model" in names else "model"
                    self.report(item.mark, "missing-key", f"an entry of 'train' needs '{missing}', a name", entry_path)
                is_valid = False
                continue
            options = {}
            for name, (key, value) in entries.items():
                if (
                    name not in names
                    and (literal := self.read_literal(value, f"{entry_path}.{shorten(name)}")) is not None
                ):
                    options[name] = (key.mark, value.mark, to_python(literal))
            models.append(ParsedTrain(names["model"], names["loss"], options))
        return models if is_valid else None


def _get_tree(entries: Entries, name: str) -> Tree | None:
    return entries[name][1] if name in entries else None

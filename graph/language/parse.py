"""Parsing of a workflow: from its YAML tree to its syntax tree."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from guidegraph.graph.errors import Mark, Problem, closest_match
from guidegraph.graph.kinds import list_loop_keys, load_function, match_kind
from guidegraph.graph.language.syntax import (
    Links,
    NamedLinks,
    ParsedBroken,
    ParsedChoice,
    ParsedLoop,
    ParsedNode,
    ParsedOp,
    ParsedParam,
    ParsedPreview,
    ParsedTrain,
    ParsedTraining,
    ParsedWorkflow,
)
from guidegraph.graph.language.yaml_tree import (
    Entries,
    Scalar,
    Tree,
    TreeReader,
    YamlMapping,
    YamlSequence,
    get_tree,
    has_broken,
    join_path,
    read_tree,
    shorten,
    to_python,
)
from guidegraph_runtime.declare.choice_words import CHOOSE, OF, OTHERWISE, WHEN

VERSION = 1
WORKFLOW_KEYS = ("guidegraph", "name", "description", "requires", "params", "nodes", "outputs")


def parse(text: str, path: Path, file: str | None = None) -> tuple[ParsedWorkflow | None, list[Problem]]:
    """Parse a workflow; returns the syntax tree, with gaps for invalid parts, and the problems.

    file: the path for messages.
    """
    file = str(path) if file is None else file
    tree, problems = read_tree(text, file)
    if tree is None:
        return None, problems
    reader = TreeReader(problems)
    return _read_workflow(reader, tree, text, path, file), reader.problems


def _read_workflow(reader: TreeReader, tree: Tree, text: str, path: Path, file: str) -> ParsedWorkflow | None:
    if isinstance(tree, Scalar) and tree.value is None:
        reader.report(tree.mark, "empty", "the file is empty: expected a workflow")
        return None
    if not isinstance(tree, YamlMapping):
        reader.report_unexpected("a workflow, a mapping", tree, "not-a-mapping", "")
        return None
    top = reader.read_mapping(tree, "", "a workflow") or {}
    unknown = top.keys() - set(WORKFLOW_KEYS)
    if len(unknown) > len(top) / 2 and not any(closest_match(key, ["guidegraph"]) for key in top):
        hint = "; it is the record of a run: name the workflow instead" if "node_versions" in top else ""
        message = f"this is not a workflow, which begins with 'guidegraph: {VERSION}'{hint}"
        reader.report(tree.mark, "missing-key", message)
        return None
    meant = reader.report_unknown_keys(top, WORKFLOW_KEYS, "")
    unread = set(meant)
    if "guidegraph" not in meant:
        _check_version(reader, top, tree.mark)
    for name in ("name", "description"):
        if name in top and not isinstance(top[name][1], Scalar):
            reader.report_unexpected("a text", top[name][1], "bad-value", name)
    params = reader.read_mapping(get_tree(top, "params"), "params", "parameters by name")
    nodes = read_block(reader, get_tree(top, "nodes"), "nodes", 0)
    if nodes is None or "nodes" not in top:
        unread.add("nodes")
    if params is None:
        unread.add("params")
    if "nodes" not in top and "nodes" not in meant:
        reader.report(tree.mark, "missing-key", "expected 'nodes': the workflow has none", "nodes")
    if "outputs" not in top and "outputs" not in meant:
        message = "expected 'outputs', the results by name, such as {result: decode}"
        reader.report(tree.mark, "missing-key", message, "outputs")
    outputs = read_links(reader, get_tree(top, "outputs"), "outputs")
    if outputs == {} and "outputs" in top:
        key, written = top["outputs"]
        if not isinstance(written, YamlMapping) or not written.items:
            message = "expected at least one output, such as 'result: decode'"
            reader.report(key.mark, "missing-key", message, "outputs")
    declared = {name: _read_param(reader, key, value) for name, (key, value) in (params or {}).items()}
    requires = _read_requires(reader, top)
    return ParsedWorkflow(path, file, text, declared, nodes or {}, outputs or {}, requires, frozenset(unread))


def _check_version(reader: TreeReader, top: Entries, mark: Mark) -> None:
    if "guidegraph" not in top:
        message = f"expected 'guidegraph: {VERSION}', the version of the language"
        reader.report(mark, "missing-key", message, "guidegraph")
        return
    tree = top["guidegraph"][1]
    value = tree.value if isinstance(tree, Scalar) else None
    if isinstance(value, bool) or value != VERSION:
        newer = isinstance(value, int) and value > VERSION
        hint = "; a newer guidegraph is needed: pip install --upgrade guidegraph" if newer else ""
        reader.report_unexpected(f"{VERSION}, the version of the language", tree, "bad-version", "guidegraph", hint)


def _read_requires(reader: TreeReader, top: Entries) -> dict[str, tuple[Mark, Scalar]]:
    requires: dict[str, tuple[Mark, Scalar]] = {}
    entries = reader.read_mapping(get_tree(top, "requires"), "requires", "plugin distributions with their versions")
    for name, (key, tree) in (entries or {}).items():
        if isinstance(tree, Scalar):
            requires[name] = (key.mark, tree)
        else:
            reader.report_unexpected("a version such as '>=0.1'", tree, "bad-value", f"requires.{shorten(name)}")
    return requires


def _read_param(reader: TreeReader, key: Scalar, tree: Tree) -> ParsedParam | None:
    path = f"params.{shorten(key.text)}"
    if not reader.check_name(key, path):
        return None
    if not isinstance(tree, YamlMapping):
        literal = reader.read_literal(tree, path)
        return None if literal is None else ParsedParam(key.text, key.mark, None, literal, "")
    entries = reader.read_mapping(tree, path, "a parameter") or {}
    meant = reader.report_unknown_keys(entries, ("default", "type", "help"), path)
    trees = {name: value for name, (_, value) in entries.items()}
    kind, default, help = trees.get("type"), trees.get("default"), trees.get("help")
    if help is not None and not isinstance(help, Scalar):
        reader.report_unexpected("a text", help, "bad-value", f"{path}.help")
    if kind is not None and not isinstance(kind, Scalar):
        reader.report_unexpected("the name of a type", kind, "bad-type", f"{path}.type")
        return None
    if kind is None and default is None:
        if not meant:
            reader.report(key.mark, "missing-key", "a parameter needs a 'default' or a 'type'", path)
        return None
    if default is not None and reader.read_literal(default, f"{path}.default") is None:
        return None
    return ParsedParam(key.text, key.mark, kind, default, help.text if isinstance(help, Scalar) else "")


NODE_KEYS = ("use", "in", "with")


def read_node(reader: TreeReader, key: Scalar, entries: Entries, path: str, keys: tuple[str, ...]) -> ParsedNode | None:
    """A call of a node; None without an id. keys: the allowed ones."""
    meant = reader.report_unknown_keys(entries, keys, path)
    if "use" not in entries:
        if "use" not in meant:
            reader.report(key.mark, "missing-key", "expected 'use', the node's id, 'loop' or 'choose'", path)
        return None
    use = entries["use"][1]
    if not isinstance(use, Scalar) or not use.text:
        reader.report_unexpected("a node's id", use, "bad-value", f"{path}.use")
        return None
    node = ParsedNode(key.text, path, key.mark, use)
    inputs = reader.read_mapping(get_tree(entries, "in"), f"{path}.in", "links by port")
    for port, (port_key, value) in (inputs or {}).items():
        links: Links | None = None
        if isinstance(value, Scalar) or (
            isinstance(value, YamlSequence) and all(isinstance(item, Scalar) for item in value.items)
        ):
            links = value
        elif not has_broken(value):
            hint = "; literals go under 'with'"
            location = f"{path}.in.{shorten(port)}"
            reader.report_unexpected("a link or a list of links", value, "not-a-link", location, hint)
        node.inputs[port] = (port_key.mark, links)
    literals = reader.read_mapping(get_tree(entries, "with"), f"{path}.with", "values by setting")
    for port, (port_key, value) in (literals or {}).items():
        node.literals[port] = (port_key.mark, reader.read_literal(value, f"{path}.with.{shorten(port)}"))
    unknown = (tree for name, (_, tree) in entries.items() if name not in keys)
    node.partial = inputs is None or literals is None or any(isinstance(tree, YamlMapping) for tree in unknown)
    return node


def read_links(reader: TreeReader, tree: Tree | None, path: str) -> NamedLinks | None:
    """Links by name, of ``outputs``, ``carry``, ``next`` or ``collect``."""
    entries = reader.read_mapping(tree, path, "links by name")
    links: NamedLinks = {}
    for name, (key, value) in (entries or {}).items():
        if not reader.check_name(key, join_path(path, name)):
            continue
        if not isinstance(value, Scalar):
            reader.report_unexpected("a link", value, "not-a-link", f"{path}.{name}")
        links[name] = (key.mark, value if isinstance(value, Scalar) else None)
    return None if entries is None else links


RESERVED = ("params", "carry", "loop")
MAX_NESTING = 8


def read_block(reader: TreeReader, tree: Tree | None, path: str, depth: int) -> dict[str, ParsedOp] | None:
    """The nodes of a workflow or a loop's body, broken ones included; None for any other value, which is reported."""
    entries = reader.read_mapping(tree, path, "nodes by name")
    if entries is None:
        return None
    nodes: dict[str, ParsedOp] = {}
    for name, (key, node) in entries.items():
        node_path = f"{path}.{shorten(name)}"
        op = _read_op(reader, key, node, node_path, depth) if reader.check_name(key, node_path, RESERVED) else None
        nodes[name] = op or ParsedBroken(name, node_path, key.mark)
    return nodes


def _read_op(reader: TreeReader, key: Scalar, tree: Tree, path: str, depth: int) -> ParsedOp | None:
    if not isinstance(tree, YamlMapping):
        reader.report_unexpected("a node such as {use: …, in: {…}}", tree, "not-a-mapping", path)
        return None
    entries = reader.read_mapping(tree, path, "a node") or {}
    kind = match_kind(entries)
    if kind is None:
        return read_node(reader, key, entries, path, NODE_KEYS)
    op: ParsedOp | None = load_function(kind.read)(reader, key, entries, path, depth)
    return op


Loop = TypeVar("Loop", bound=ParsedLoop)


def read_loop(
    reader: TreeReader,
    key: Scalar,
    entries: Entries,
    path: str,
    depth: int,
    make: type[Loop] = ParsedLoop,  # type: ignore[assignment]
) -> Loop | None:
    """Parse what all kinds of loop have; None if it cannot be read at all. make: the class of the parsed loop."""
    unread = reader.report_unknown_keys(entries, list_loop_keys(), path)
    if depth >= MAX_NESTING:
        reader.report(key.mark, "too-deep", f"loops nest at most {MAX_NESTING} deep", path)
        return None
    if "body" not in entries:
        if "body" not in unread:
            reader.report(key.mark, "missing-key", "a loop needs a 'body', nodes by name", path)
        unread.add("body")
    over, item = _read_loop_head(reader, key, entries, path, unread)
    carry, after, collect = (
        read_links(reader, get_tree(entries, n), f"{path}.{n}") for n in ("carry", "next", "collect")
    )
    body = read_block(reader, get_tree(entries, "body"), f"{path}.body", depth + 1)
    groups = {"carry": carry, "next": after, "collect": collect, "body": body}
    unread |= {name for name, group in groups.items() if group is None}
    next_mark = entries["next"][0].mark if "next" in entries else key.mark
    return make(
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
        frozenset(unread),
    )


def _read_loop_head(
    reader: TreeReader, loop_key: Scalar, entries: Entries, path: str, unread: set[str]
) -> tuple[Scalar | None, Scalar | None]:
    """``over`` and ``as``, each None if invalid."""
    if "loop" not in entries:
        if "loop" not in unread:
            message = "a node with a 'body' needs 'loop': {over: LINK, as: NAME}"
            reader.report(loop_key.mark, "missing-key", message, path)
        return None, None
    path = f"{path}.loop"
    key, tree = entries["loop"]
    head = reader.read_mapping(tree, path, "{over: …, as: …}")
    if head is None:
        return None, None
    meant = reader.report_unknown_keys(head, ("over", "as"), path)
    missing = {"over", "as"} - head.keys()
    if len(head) != 2 or len(missing) != 1:
        for name in sorted(missing - meant):
            reader.report(key.mark, "missing-key", f"a loop needs '{name}': {{over: LINK, as: NAME}}", path)
    over, item = get_tree(head, "over"), get_tree(head, "as")
    if over is not None and not isinstance(over, Scalar):
        hint = "; a loop runs over what a node or a parameter gives"
        reader.report_unexpected("a link", over, "not-a-link", f"{path}.over", hint)
    if item is not None and not isinstance(item, Scalar):
        reader.report_unexpected("a name", item, "bad-name", f"{path}.as")
        item = None
    if item is not None and not reader.check_name(item, f"{path}.as", (*RESERVED, "index")):
        item = None
    return over if isinstance(over, Scalar) else None, item


FORM = "{when: LINK, of: {VALUE: LINK, …}}"


def read_choice(reader: TreeReader, key: Scalar, entries: Entries, path: str, _depth: int) -> ParsedChoice | None:
    """Parse a choice node; None if it cannot be read at all. It holds no other nodes, at any depth."""
    reader.report_unknown_keys(entries, (CHOOSE,), path)
    path = f"{path}.{CHOOSE}"
    head, tree = entries[CHOOSE]
    choice = reader.read_mapping(tree, path, FORM)
    if choice is None:
        return None
    unread = reader.report_unknown_keys(choice, (WHEN, OF, OTHERWISE), path)
    for name in (WHEN, OF):
        if name not in choice and name not in unread:
            reader.report(head.mark, "missing-key", f"a choice needs '{name}': {FORM}", path)
            unread.add(name)
    links = {name: _to_link(reader, choice[name][1], f"{path}.{name}") for name in (WHEN, OTHERWISE) if name in choice}
    unread |= {name for name, link in links.items() if link is None}
    branches = _read_branches(reader, choice, path, unread)
    path = path.removesuffix(f".{CHOOSE}")
    when, otherwise = links.get(WHEN), links.get(OTHERWISE)
    return ParsedChoice(key.text, path, key.mark, when, branches, otherwise, frozenset(unread))


def _to_link(reader: TreeReader, tree: Tree, path: str) -> Scalar | None:
    """The tree as a link; None for any other value, which is reported."""
    if isinstance(tree, Scalar) and isinstance(tree.value, str):
        return tree
    reader.report_unexpected("a link", tree, "not-a-link", path, "; make a parameter of a value and link to it")
    return None


def _read_branches(
    reader: TreeReader, entries: Entries, path: str, unread: set[str]
) -> dict[str, tuple[Scalar, Scalar | None]]:
    if OF not in entries:
        return {}
    path = f"{path}.{OF}"
    key, tree = entries[OF]
    links_by_value = reader.read_mapping(tree, path, "links by the value that takes them")
    if links_by_value is None:
        unread.add(OF)
        return {}
    if not links_by_value:
        reader.report(key.mark, "missing-key", "a choice needs a branch or more, such as 'true: some_node'", path)
        unread.add(OF)
    branches: dict[str, tuple[Scalar, Scalar | None]] = {}
    for name, (label, value) in links_by_value.items():
        if name in (WHEN, OTHERWISE):
            hint = "; 'otherwise' goes beside 'of'" if name == OTHERWISE else ""
            reader.report(label.mark, "reserved-name", f"'{name}' cannot be the value of a branch{hint}", path)
            unread.add(OF)
            continue
        branches[name] = (label, _to_link(reader, value, f"{path}.{shorten(name)}"))
    return branches


TRAINING_KEYS = ("steps", "precision", "checkpoint", "seed", "preview")


def read_training(reader: TreeReader, key: Scalar, entries: Entries, path: str, depth: int) -> ParsedTraining | None:
    """Parse a loop with ``train``, or with options that only such a loop may have; None if it cannot be read at all."""
    loop = read_loop(reader, key, entries, path, depth, ParsedTraining)
    if loop is None:
        return None
    train = _read_trained_models(reader, get_tree(entries, "train"), path)
    loop.train = train or []
    if train is None:
        loop.unread |= {"train"}
    for name in ("steps", "precision", "seed"):
        value = get_tree(entries, name)
        if isinstance(value, Scalar):
            setattr(loop, name, value)
        elif value is not None:
            reader.report_unexpected("one value", value, "bad-value", f"{loop.path}.{name}")
    if "checkpoint" in entries:
        checkpoint_path = f"{loop.path}.checkpoint"
        checkpoint = reader.read_mapping(entries["checkpoint"][1], checkpoint_path, "{path: …, every: …}")
        meant = reader.report_unknown_keys(checkpoint or {}, ("path", "every", "check"), checkpoint_path)
        for name, (_, tree) in (checkpoint or {}).items():
            if (literal := reader.read_literal(tree, f"{checkpoint_path}.{shorten(name)}")) is not None:
                loop.checkpoint[name] = (tree.mark, literal)
        if checkpoint is not None and "path" not in checkpoint and "path" not in meant:
            message = "a checkpoint needs its 'path', a folder"
            reader.report(entries["checkpoint"][0].mark, "missing-key", message, checkpoint_path)
    if "preview" in entries:
        _read_preview(reader, loop, *entries["preview"])
    for name in TRAINING_KEYS:
        if name in entries and "train" not in entries and "train" not in loop.unread:
            message = f"'{name}' belongs to a loop with 'train'"
            reader.report(entries[name][0].mark, "unknown-key", message, f"{loop.path}.{name}")
    return loop


def _read_preview(reader: TreeReader, loop: ParsedTraining, key: Scalar, tree: Tree) -> None:
    path = f"{loop.path}.preview"
    entries = reader.read_mapping(tree, path, "{every: …, use: …, in: {…}}")
    node = read_node(reader, key, entries, path, ("every", *NODE_KEYS)) if entries is not None else None
    if entries is None or node is None:
        return
    if "every" not in entries:
        reader.report(key.mark, "missing-key", "a preview needs 'every', the number of steps between two", path)
    elif (every := reader.read_literal(entries["every"][1], f"{path}.every")) is not None:
        loop.preview = ParsedPreview(node, every)


def _read_trained_models(reader: TreeReader, tree: Tree | None, path: str) -> list[ParsedTrain] | None:
    """The entries of ``train``: empty if the key is absent, None if an entry is invalid."""
    if tree is None:
        return []
    if not isinstance(tree, YamlSequence) or not tree.items:
        reader.report_unexpected("a list of {model: …, loss: …}", tree, "bad-value", f"{path}.train")
        return None
    models: list[ParsedTrain] = []
    is_valid = True
    for i, item in enumerate(tree.items):
        entry_path = f"{path}.train.{i}"
        entries = reader.read_mapping(item, entry_path, "{model: …, loss: …}")
        names = {n: t for n in ("model", "loss") if isinstance(t := get_tree(entries or {}, n), Scalar)}
        if entries is None or len(names) < 2:
            if entries is not None and not has_broken(item):
                missing = "loss" if "model" in names else "model"
                reader.report(item.mark, "missing-key", f"an entry of 'train' needs '{missing}', a name", entry_path)
            is_valid = False
            continue
        options = {}
        for name in (name for name in entries if name not in names):
            key, value = entries[name]
            if (literal := reader.read_literal(value, f"{entry_path}.{shorten(name)}")) is not None:
                options[name] = (key.mark, value.mark, to_python(literal))
        models.append(ParsedTrain(names["model"], names["loss"], options))
    return models if is_valid else None

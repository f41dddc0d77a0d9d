"""Parsing of a block, its nodes by name, and of the loops in it."""

from __future__ import annotations

from typing import TypeVar

from guidegraph.graph.kinds import list_loop_keys, load_function, match_kind
from guidegraph.graph.language.parse_node import NODE_KEYS, read_links, read_node
from guidegraph.graph.language.syntax import (
    ParsedBroken,
    ParsedChoice,
    ParsedLoop,
    ParsedOp,
    ParsedPreview,
    ParsedTrain,
    ParsedTraining,
)
from guidegraph.graph.language.tree_reader import Entries, TreeReader, get_tree
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlMapping, YamlSequence, has_broken, shorten, to_python
from guidegraph_runtime.declare.choice_words import CHOOSE, OF, OTHERWISE, WHEN

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

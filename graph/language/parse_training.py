"""Parsing of the keys that only a training loop has: ``train``, its options and its preview."""

from __future__ import annotations

from guidegraph.graph.language.parse_block import read_loop
from guidegraph.graph.language.parse_node import NODE_KEYS, read_node
from guidegraph.graph.language.syntax import ParsedPreview, ParsedTrain, ParsedTraining
from guidegraph.graph.language.tree_reader import Entries, TreeReader, get_tree
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlSequence, has_broken, shorten, to_python

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

"""Parsing of a workflow: from its YAML tree to its syntax tree."""

from __future__ import annotations

from pathlib import Path

from guidegraph.graph.errors import Mark, Problem, closest_match
from guidegraph.graph.language.parse_block import read_block
from guidegraph.graph.language.parse_node import read_links
from guidegraph.graph.language.syntax import ParsedParam, ParsedWorkflow
from guidegraph.graph.language.tree_reader import Entries, TreeReader, get_tree
from guidegraph.graph.language.yaml_tree import Scalar, Tree, YamlMapping, read_tree, shorten

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
    kind, default, help = (get_tree(entries, name) for name in ("type", "default", "help"))
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

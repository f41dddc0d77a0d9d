"""A workflow's file as the page shows it: its text, its problems, its nodes with their lines, and its drawing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from guidegraph.drawing.svg import draw_svg
from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.ir import Graph, walk, walk_calls
from guidegraph.graph.language.parse import parse
from guidegraph.graph.language.syntax import (
    ParsedChoice,
    ParsedLoop,
    ParsedNode,
    ParsedOp,
    ParsedWorkflow,
    list_links,
)
from guidegraph.graph.language.yaml_tree import YamlSequence
from guidegraph.graph.node import Registry
from guidegraph.graph.resolution.ports import TypeRecord
from guidegraph.graph.trust.policy import Policy
from guidegraph.runs.check import check_workflow
from guidegraph_page.folder import WorkflowFolder
from guidegraph_page.forms import Row, describe_node_for_page, describe_parameter, format_tree
from guidegraph_page.strangers import NOTE, SUFFIX, Strangers, WorkflowSource
from guidegraph_page.wiring import Wiring

BROKEN = "correct the errors of the workflow before you wire it"
SCOPE = "graph"
"""The class of the drawing in the page."""

Fingerprint: TypeAlias = tuple[int, int, int]
"""The time of the last change in nanoseconds, the size in bytes and the inode of a file; zeros if there is none."""


def read_fingerprint(path: Path) -> Fingerprint:
    """A value that changes when the file does."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0, 0
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


class _Reading(NamedTuple):
    """A workflow as read: graph and wiring are None if it has problems, workflow too if it cannot be parsed."""

    text: str
    workflow: ParsedWorkflow | None
    graph: Graph | None
    wiring: Wiring | None
    problems: list[Problem]


@dataclass
class Views:
    """Reads workflows for the page, those in pictures too. drawings: the last good drawing of each, by name.

    files: the fingerprints of the files that each workflow was last read from, by name. They include sub-workflows with
    errors, and those that are missing.
    """

    folder: WorkflowFolder
    registry: Registry
    policy: Policy
    strangers: Strangers = field(default_factory=Strangers)
    drawings: dict[str, str] = field(default_factory=dict)
    files: dict[str, dict[Path, Fingerprint]] = field(default_factory=dict)
    _wirings: dict[str, tuple[dict[Path, Fingerprint], Wiring | None]] = field(default_factory=dict)
    _types: dict[str, Row] = field(default_factory=dict)

    def find_source(self, name: str) -> WorkflowSource:
        """The workflow with this name, of a picture or in the folder. Raises ``UnknownWorkflow``."""
        return self.strangers.find(name) or WorkflowSource(self.folder.locate(name))

    def add_picture(self, file: str, content: bytes) -> str:
        """Add the workflow of a picture, as ``Strangers.add`` does. Views of pictures that made room are forgotten."""
        name = self.strangers.add(file, content)
        present = {*self.strangers.list_names()} - {name}  # a new picture may have the name of one that made room
        caches: list[dict[str, Any]] = [self.drawings, self.files, self._wirings]
        for kept in caches:
            for other in [other for other in [*kept] if other.endswith(SUFFIX) and other not in present]:
                kept.pop(other, None)
        return name

    def read_wiring(self, name: str) -> Wiring:
        """The wires of a workflow as it is on disk. Raises ``UnknownWorkflow``; ``WorkflowError`` if it has errors."""
        source = self.find_source(name)
        # Another thread may read it meanwhile: the wires are taken together with the files that they are from.
        files, wiring = self._wirings.get(name, ({}, None))
        if wiring is None or any(read_fingerprint(file) != mark for file, mark in files.items()):
            wiring = self._read_graph(name, source).wiring
        if wiring is None:
            raise WorkflowError([Problem(Mark(str(source.path), 1, 1), "not-editable", BROKEN, name)])
        return wiring

    def read(self, name: str) -> Row:
        """The view of a workflow. Raises ``UnknownWorkflow``. A workflow with errors has the last good drawing.

        Any thread may call it.
        """
        source = self.find_source(name)
        path, policy = source.path, source.make_policy(self.policy)
        text, workflow, graph, _, problems = self._read_graph(name, source)
        notes: list[Problem] = []
        if graph is not None:
            try:
                notes = check_workflow(graph, self.registry, policy).machine_problems
            except WorkflowError as error:
                problems = error.problems
            self.drawings[name] = draw_svg(graph, SCOPE, live=True)
        # The note on a picture's workflow has the form of a problem.
        row = {"file": "", "here": False, "line": 0, "column": 0, "code": "stranger", "message": NOTE, "path": ""}
        return {
            "name": name,
            "text": text,
            "problems": [self._describe_problem(problem, path) for problem in problems],
            "notes": [
                *([row] if source.recipe is not None else []),
                *(self._describe_problem(problem, path) for problem in notes),
            ],
            "svg": self.drawings.get(name, ""),
            "drawn": graph is not None,
            "readonly": source.readonly,
            "params": _describe_parameters(graph, workflow, source),
            "nodes": {**_describe_nodes(workflow, text), **self._describe_inlined(graph, path)},
            "types": self._describe_types(graph, workflow),
        }

    def _read_graph(self, name: str, source: WorkflowSource) -> _Reading:
        """Read and resolve a workflow. Its wires and the fingerprints of its files are kept."""
        path = source.path
        problems: list[Problem] = []
        graph, workflow, text = None, None, ""
        files, types = set() if source.recipe else {path}, TypeRecord()
        before = {file: read_fingerprint(file) for file in (*files, *self.files.get(name, {}))}
        try:
            text = source.read_text()
            workflow, _ = parse(text, path)
            graph = source.build(self.registry, {os.path.normpath(path.absolute()): text}, files, types)
        except WorkflowError as error:
            problems = error.problems
        marks = {file: before.get(file) or read_fingerprint(file) for file in files}
        wiring = None if graph is None or workflow is None else Wiring(workflow, self.registry, types)
        self.files[name], self._wirings[name] = marks, (marks, wiring)
        return _Reading(text, workflow, graph, wiring, problems)

    def _describe_problem(self, problem: Problem, path: Path) -> Row:
        return {
            "file": self.folder.shorten(problem.mark.file),
            "here": problem.mark.file == str(path),
            "line": problem.mark.line,
            "column": problem.mark.column,
            "code": problem.code,
            "message": problem.message,
            "path": problem.path,
        }

    def _describe_inlined(self, graph: Graph | None, path: Path) -> dict[str, Row]:
        """The nodes of sub-workflows, whose lines are in other files."""
        if graph is None:
            return {}
        return {
            f"nodes.{op.key}": {
                "kind": "inlined",
                "use": op.node_id,
                "file": self.folder.shorten(op.mark.file),
                "line": op.mark.line,
            }
            for op in walk(graph.ops, previews=False)
            if op.mark.file != str(path)
        }

    def _describe_types(self, graph: Graph | None, workflow: ParsedWorkflow | None) -> dict[str, Row]:
        """The descriptions of all nodes that the workflow uses, by id."""
        ids = {op.use.text for op in _iterate_ops(workflow.nodes if workflow else {}) if isinstance(op, ParsedNode)}
        if graph is not None:
            ids |= {call.spec.id for call in walk_calls(graph.ops, previews=False)}
        nodes = self.registry.nodes
        for id in ids & {*nodes} - {*self._types}:
            self._types[id] = describe_node_for_page(nodes[id], self.registry)
        return {id: self._types[id] for id in sorted(ids & {*nodes})}


def _describe_parameters(graph: Graph | None, workflow: ParsedWorkflow | None, source: WorkflowSource) -> list[Row]:
    if graph is None or workflow is None:
        return []
    rows = []
    for name, parameter in graph.params.items():
        written = workflow.params.get(name)
        row = describe_parameter(parameter, written.default if written is not None else None)
        rows.append({**row, "default": source.format_default(name, row["default"])})
    return rows


def _iterate_ops(ops: Mapping[str, ParsedOp]) -> Iterator[ParsedOp]:
    """All nodes as written, each loop before its body."""
    pending = [*ops.values()][::-1]
    while pending:
        op = pending.pop()
        yield op
        if isinstance(op, ParsedLoop):
            pending += [*op.body.values()][::-1]


def _describe_nodes(workflow: ParsedWorkflow | None, text: str) -> dict[str, Row]:
    """All nodes as written, by path, each with its first and last line."""
    if workflow is None:
        return {}
    lines = text.splitlines()
    return {
        op.path: {
            **_describe_op(op),
            "line": op.mark.line,
            "last": _find_last_line(lines, op.mark.line, op.mark.column),
        }
        for op in _iterate_ops(workflow.nodes)
    }


def _describe_op(op: ParsedOp) -> Row:
    if isinstance(op, ParsedNode):
        arguments: Row = {}
        for name, (mark, links) in op.inputs.items():
            if links:
                texts = [link.text for link in list_links(links)]
                text = f"[{', '.join(texts)}]" if isinstance(links, YamlSequence) else texts[0]
                arguments[name] = {"link": text, "line": mark.line}
        for name, (mark, tree) in op.literals.items():
            if tree:
                arguments[name] = {"literal": format_tree(tree), "line": mark.line}
        return {"kind": "node", "use": op.use.text, "arguments": arguments}
    if isinstance(op, ParsedLoop):
        groups = {"carry": op.carry, "next": op.next, "collect": op.collect}
        return {
            "kind": "loop",
            "over": op.over.text if op.over else "",
            "item": op.item.text if op.item else "",
            "trains": [*op.updated],
            "groups": {
                group: {name: link.text for name, (_, link) in links.items() if link is not None}
                for group, links in groups.items()
                if links
            },
        }
    if isinstance(op, ParsedChoice):
        branches = {name: link.text for name, (_, link) in op.branches.items() if link is not None}
        if op.otherwise is not None:
            branches["otherwise"] = op.otherwise.text
        return {"kind": "choice", "when": op.when.text if op.when else "", "groups": {"branches": branches}}
    return {"kind": "broken"}


def _find_last_line(lines: list[str], first: int, column: int) -> int:
    """The last line of the YAML entry whose key is at a position; lines and columns count from 1."""
    last = first
    for number in range(first + 1, len(lines) + 1):
        line = lines[number - 1]
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if len(line) - len(line.lstrip()) < column:
            break
        last = number
    return last

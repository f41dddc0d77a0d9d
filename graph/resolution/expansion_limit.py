"""The number of nodes in a workflow once its sub-workflows are inlined, counted before any is built.

Workflows that each use the next one twice reach a hundred thousand nodes in 1.5 kB. Counting visits each file once at
each depth.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.language.syntax import ParsedLoop, ParsedNode, ParsedOp, ParsedWorkflow
from guidegraph.graph.resolution.sub_workflows import MAX_FILES, display_path, resolve_sub_workflow_path
from guidegraph.graph.trust.limits import limit_message

ParseFile = Callable[[Path, str], ParsedWorkflow | None]


def find_expansion_problems(workflow: ParsedWorkflow, parse_file: ParseFile, endings: tuple[str, ...]) -> list[Problem]:
    """A problem if a workflow has more nodes than the limit allows.

    parse_file: parses a used workflow, given its path and its path for messages. endings: suffixes of such files.
    """
    counter = _NodeCounter(parse_file, endings)
    total = counter.count_workflow(workflow, (workflow.path,))
    message = limit_message("nodes", total, f"with the workflows that it uses, this is {total:,} nodes")
    if message is None:
        return []
    mark, path = counter.find_largest(workflow)
    return [Problem(mark, "too-large", message, path)]


class _NodeCounter:
    def __init__(self, parse_file: ParseFile, endings: tuple[str, ...]):
        self._parse_file, self._endings = parse_file, endings
        self._counts: dict[tuple[Path, int], int] = {}

    def count_workflow(self, workflow: ParsedWorkflow, files: tuple[Path, ...]) -> int:
        """Count a workflow's nodes. files: the workflows being counted, outermost first, this one included."""
        key = workflow.path, len(files)
        if key not in self._counts:
            self._counts[key] = self._count_nodes(workflow.nodes, workflow, files)
        return self._counts[key]

    def find_largest(self, workflow: ParsedWorkflow) -> tuple[Mark, str]:
        """The position and path of the node that contributes most nodes."""
        files = (workflow.path,)
        op = max(workflow.nodes.values(), key=lambda op: self._count_nodes({op.name: op}, workflow, files))
        return (op.use.mark, f"{op.path}.use") if isinstance(op, ParsedNode) else (op.mark, op.path)

    def _count_nodes(self, nodes: Mapping[str, ParsedOp], workflow: ParsedWorkflow, files: tuple[Path, ...]) -> int:
        total = len(nodes)
        for op in nodes.values():
            if isinstance(op, ParsedLoop):
                total += self._count_nodes(op.body, workflow, files) + len(op.option_nodes)
            elif isinstance(op, ParsedNode) and op.use.text.endswith(self._endings):
                total += self._count_used(op.use.text, workflow, files)
        return total

    def _count_used(self, use: str, workflow: ParsedWorkflow, files: tuple[Path, ...]) -> int:
        """Count the nodes of a used workflow; 0 if it cannot be used, which is reported when it is resolved."""
        try:
            path = resolve_sub_workflow_path(use, workflow.path.parent)
            if path in files or len(files) >= MAX_FILES:
                return 0
            used = self._parse_file(path, display_path(use, path, os.path.dirname(workflow.file)))
        except (ValueError, WorkflowError):
            return 0
        return self.count_workflow(used, (*files, path)) if used is not None else 0

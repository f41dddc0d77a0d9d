"""How many nodes a workflow has once those that it uses stand in their places, counted before any is built.

1.5 kB of workflows of which each uses the next one twice are a hundred thousand nodes. Counting takes one visit of each
file at each depth.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from guidegraph.graph.elaborate_workflow import MAX_FILES, used_path, used_shown
from guidegraph.graph.errors import Mark, Problem, WorkflowError
from guidegraph.graph.parsed import ParsedLoop, ParsedNode, ParsedOp, ParsedWorkflow
from guidegraph.graph.trust.limits import limit_message

Parsed = Callable[[Path, str], ParsedWorkflow | None]


def expansion_problems(workflow: ParsedWorkflow, parsed: Parsed, endings: tuple[str, ...]) -> list[Problem]:
    """A problem where a workflow has more nodes than the limit.

    parsed: reads a workflow that is used, given its path and how errors show it. endings: of such files.
    """
    counter = _Counter(parsed, endings)
    total = counter.workflow(workflow, (workflow.path,))
    message = limit_message("nodes", total, f"with the workflows that it uses, this is {total:,} nodes")
    if message is None:
        return []
    mark, path = counter.largest(workflow)
    return [Problem(mark, "too-large", message, path)]


class _Counter:
    def __init__(self, parsed: Parsed, endings: tuple[str, ...]):
        self._parsed, self._endings = parsed, endings
        self._counts: dict[tuple[Path, int], int] = {}

    def workflow(self, workflow: ParsedWorkflow, files: tuple[Path, ...]) -> int:
        """The nodes of a workflow. files: those that are being counted, from the outermost, this one included."""
        key = workflow.path, len(files)
        if key not in self._counts:
            self._counts[key] = self._nodes(workflow.nodes, workflow, files)
        return self._counts[key]

    def largest(self, workflow: ParsedWorkflow) -> tuple[Mark, str]:
        """Where the node stands that most of the nodes come from."""
        files = (workflow.path,)
        op = max(workflow.nodes.values(), key=lambda op: self._nodes({op.name: op}, workflow, files))
        return (op.use.mark, f"{op.path}.use") if isinstance(op, ParsedNode) else (op.mark, op.path)

    def _nodes(self, nodes: Mapping[str, ParsedOp], workflow: ParsedWorkflow, files: tuple[Path, ...]) -> int:
        total = len(nodes)
        for op in nodes.values():
            if isinstance(op, ParsedLoop):
                total += self._nodes(op.body, workflow, files) + (op.preview is not None)
            elif isinstance(op, ParsedNode) and op.use.text.endswith(self._endings):
                total += self._used(op.use.text, workflow, files)
        return total

    def _used(self, use: str, workflow: ParsedWorkflow, files: tuple[Path, ...]) -> int:
        """The nodes of a workflow that is used; none where it cannot be, which is reported when it is resolved."""
        try:
            path = used_path(use, workflow.path.parent)
            if path in files or len(files) >= MAX_FILES:
                return 0
            used = self._parsed(path, used_shown(use, path, os.path.dirname(workflow.file)))
        except (ValueError, WorkflowError):
            return 0
        return self.workflow(used, (*files, path)) if used is not None else 0

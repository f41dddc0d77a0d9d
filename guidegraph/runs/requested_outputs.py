"""The outputs that a run is asked for by name."""

from __future__ import annotations

from collections.abc import Iterable

from guidegraph.graph.errors import Mark, Problem, suggest
from guidegraph.graph.ir import Graph


def list_unknown_outputs(graph: Graph, only: Iterable[str] | None, argument: str) -> list[Problem]:
    """A problem for each requested output that does not exist; argument: the option or argument that named it."""
    return [
        Problem(
            Mark(argument, 1, 1),
            "unknown-output",
            f"there is no output '{name}'; {suggest(name, graph.outputs, 'outputs')}",
        )
        for name in only or ()
        if name not in graph.outputs
    ]

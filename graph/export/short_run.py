"""A short run that compares a bundle with the engine: the example with fewer iterations of its loops."""

from __future__ import annotations

from typing import Any

from guidegraph.graph.export.workflow import Exported
from guidegraph.graph.ir import Choice, Loop, Param, Source, walk
from guidegraph.graph.planning.dependencies import find_dependencies

ITERATIONS = 8
"""More than the most results of earlier steps that a sampler keeps, so that first, middle and last steps occur."""


def shorten_run(exported: Exported) -> dict[str, int]:
    """Values of the inputs that set how often the example's loops run, with which these run ``ITERATIONS`` times.

    Such an input is the only whole number that a loop's sequence depends on, and no larger than its iterations. Empty
    if a workflow has choices: a short run might not reach each branch.
    """
    ops = exported.graph.ops
    if any(isinstance(op, Choice) for op in walk(ops)):
        return {}
    short: dict[str, int] = {}
    for key, iterations in exported.iterations.items():
        loop = ops[key]
        assert isinstance(loop, Loop)
        counts = {name: value for name, value in _find_counts(exported, loop.over).items() if value <= iterations}
        if len(counts) == 1:
            short |= dict.fromkeys(counts, ITERATIONS)
    return short


def _find_counts(exported: Exported, source: Source) -> dict[str, Any]:
    """The inputs that a value depends on and that are whole numbers above ``ITERATIONS``, with the example's values."""
    sources = [source]
    for op in find_dependencies(exported.graph.ops, [source]).values():
        sources += op.sources()
    names = dict.fromkeys(source.name for source in sources if isinstance(source, Param))
    inputs = {name: exported.inputs[name] for name in names if name in exported.inputs}
    return {
        name: exported.values[name]
        for name, declared in inputs.items()
        if declared.type == "int" and not declared.many and not declared.choices and exported.values[name] > ITERATIONS
    }

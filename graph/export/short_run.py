"""A short run that compares a bundle with the engine: the example with fewer iterations of its loops."""

from __future__ import annotations

from typing import Any

from guidegraph.graph.export.workflow import Exported
from guidegraph.graph.ir import Call, Choice, Loop, Op, walk
from guidegraph.graph.planning.dependencies import find_dependencies
from guidegraph.graph.sources import Index, Item, Param, Source, list_sources

ITERATIONS = 8
"""More than the most results of earlier steps that a sampler keeps, so that first, middle and last steps occur."""


def shorten_run(exported: Exported) -> dict[str, int]:
    """Values of the inputs that set how often the example's loops run: ``ITERATIONS`` for each.

    Such an input is the only whole number that a loop's sequence depends on, and no larger than its iterations. Empty
    if a step may differ from others by more than its numbers, since a short run might lack such a step: if the workflow
    has choices, such as rules with a memory, if a node leaves out a port at some steps, such as guidance in an
    interval, or if one that the runtime does not know reads the number of the step.
    """
    ops = exported.graph.ops
    if any(isinstance(op, Choice) for op in walk(ops)) or any(map(_has_unlike_steps, walk(ops))):
        return {}
    short: dict[str, int] = {}
    for key, iterations in exported.iterations.items():
        loop = ops[key]
        assert isinstance(loop, Loop)
        counts = {name: value for name, value in _find_counts(exported, loop.over).items() if value <= iterations}
        if len(counts) == 1:
            short |= dict.fromkeys(counts, ITERATIONS)
    return short


def _has_unlike_steps(op: Op) -> bool:
    """Whether some call in a loop's body needs other ports at some steps, or its code reads the number of the step."""
    if not isinstance(op, Loop):
        return False
    for call in (call for call in op.body.values() if isinstance(call, Call)):
        if not call.spec.runtime and any(isinstance(source, Index) for source in call.sources()):
            return True
        if call.spec.needs is not None:
            arguments = [call.argument(name) for name in call.spec.needs_arguments]
            roots = [source for sources in arguments if sources is not None for source in list_sources(sources)]
            sources = [*roots, *(s for inner in find_dependencies(op.body, roots).values() for s in inner.sources())]
            if any(isinstance(source, (Item, Index)) for source in sources):
                return True
    return False


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

"""Constraints on a single file's inputs that the runtime checks before a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidegraph_runtime.bundle.manifest_types import MULTIPLES, Operation, Tensor, walk_operations
from guidegraph_runtime.running.values import Loop


def find_starting_values(plan: Sequence[Operation]) -> frozenset[str]:
    """The names of the values that samples start from: the start values of loops and their dependencies."""
    makers = {name: operation for operation in walk_operations(plan) for name in operation.outputs}
    pending = [
        start
        for operation in walk_operations(plan)
        if operation.op == "loop"
        for start in Loop.of(operation).start.values()
    ]
    names: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in names:
            names.add(name)
            pending += makers[name].inputs.values() if name in makers else ()
    return frozenset(names)


def find_input_multiples(plan: Sequence[Operation], inputs: Sequence[Tensor]) -> dict[str, dict[str, int]]:
    """For each input of the graph, the factors that the sizes of its named axes must be multiples of."""
    starts = {
        carry: start
        for operation in walk_operations(plan)
        if operation.op == "loop"
        for carry, start in Loop.of(operation).start.items()
    }
    dims = {tensor.name: tensor.dims for tensor in inputs}
    multiples: dict[str, dict[str, int]] = {}
    for part in walk_operations(plan):
        factors: Any = part.settings.get(MULTIPLES, {}) if part.op == "part" else {}
        for source in part.inputs.values() if factors else ():
            name = starts.get(source, source)
            if input_factors := {axis: factor for axis, factor in factors.items() if axis in dims.get(name, ())}:
                multiples.setdefault(name, {}).update(input_factors)
    return multiples

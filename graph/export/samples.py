"""What a single file's inputs have to be so that it draws what the engine draws: for the checks before a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidegraph.graph.export.before import flat
from guidegraph_runtime.loops import Loop
from guidegraph_runtime.manifest import Operation, Tensor
from guidegraph_runtime.names import MULTIPLES


def starting_values(plan: Sequence[Operation]) -> frozenset[str]:
    """The names of the values that samples come from: what loops carry at their start, and what that is made of."""
    made = {name: one for one in flat(plan) for name in one.outputs}
    todo = [start for one in flat(plan) if one.op == "loop" for start in Loop.of(one).start.values()]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += made[name].inputs.values() if name in made else ()
    return frozenset(found)


def input_multiples(plan: Sequence[Operation], inputs: Sequence[Tensor]) -> dict[str, dict[str, int]]:
    """By input of the graph, what its named axes have to be multiples of, for the part that reads it."""
    starts = {carry: start for one in flat(plan) if one.op == "loop" for carry, start in Loop.of(one).start.items()}
    dims = {tensor.name: tensor.dims for tensor in inputs}
    found: dict[str, dict[str, int]] = {}
    for part in flat(plan):
        factors: Any = part.settings.get(MULTIPLES, {}) if part.op == "part" else {}
        for at in part.inputs.values() if factors else ():
            name = starts.get(at, at)
            if own := {axis: factor for axis, factor in factors.items() if axis in dims.get(name, ())}:
                found.setdefault(name, {}).update(own)
    return found

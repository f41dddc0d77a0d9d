"""Bound the memory and iterations of an ONNX graph as far as its constants determine them.

Four bytes of a constant can request a terabyte, or an endless loop. Sizes computed in the graph are unknown here; the
limits on the memory and time of a call bound those (`sessions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

from guidegraph_runtime.limits import current_limits, limit_message

Ints = tuple[int, ...]


class SizedNode(NamedTuple):
    """A node whose constant inputs determine the size of its output. shapes: constant shapes among its attributes."""

    op: str
    name: str
    inputs: tuple[str, ...]
    shapes: tuple[Ints, ...] = ()


_PRODUCTS = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1, "Resize": 3}
"""By operator, the input whose product is a lower bound on the elements of the output."""

SIZED = frozenset({*_PRODUCTS, "Loop", "Range", "Pad", "RandomNormal", "RandomUniform"})
"""The operators that `size_problems` checks."""


def size_problems(nodes: Sequence[SizedNode], constants: Mapping[str, Sequence[Ints]]) -> list[str]:
    """Messages about nodes that exceed the limits in force. constants: by name, which nested graphs may share."""
    limits = current_limits()
    messages = []
    for node in nodes:
        for name, count, description in _demands(node, constants):
            if message := limit_message(name, count, f"the node {node.op} '{node.name[:80]}' {description}", limits):
                messages.append(message)
    return messages


def _demands(node: SizedNode, constants: Mapping[str, Sequence[Ints]]) -> list[tuple[str, int, str]]:
    """(limit, lower bound, description) for each limited quantity of a node."""

    def constants_of(i: int) -> list[Ints]:
        return list(constants.get(node.inputs[i], ())) if i < len(node.inputs) and node.inputs[i] else []

    if node.op == "Loop":
        if not node.inputs or not node.inputs[0]:
            return [("trips", 2**63 - 1, "is a loop with no number of trips")]
        return [("trips", trips[0], f"takes {trips[0]:,} trips") for trips in constants_of(0) if trips]
    shapes = [*node.shapes]
    if node.op in _PRODUCTS:
        shapes += constants_of(_PRODUCTS[node.op])
    elif node.op == "Pad":
        shapes += [(sum(max(0, side) for side in pads),) for pads in constants_of(1)]
    elif node.op == "Range":
        shapes += [
            (max(0, -((end[0] - start[0]) // -step[0])),)
            for start in constants_of(0)
            for end in constants_of(1)
            for step in constants_of(2)
            if start and end and step and step[0]
        ]
    counts = [prod(max(0, side) for side in shape) for shape in shapes]
    return [("elements", count, f"makes {count:,} elements") for count in counts]


def sparse_problem(shape: Ints) -> str | None:
    """A message if a sparse tensor of this shape is too large when dense; else None."""
    count = prod(shape)
    return limit_message("elements", count, f"a sparse tensor has {count:,} elements")

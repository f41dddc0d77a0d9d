"""How much an ONNX graph would make onnxruntime allocate or repeat, as far as its constants say.

Four bytes of a constant can ask for a terabyte, or for a loop without an end. What is computed in the graph cannot be
known here: the memory and the time of a call bound that (`sessions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

from guidegraph_runtime.limits import Limits, current_limits, limit_message

Ints = tuple[int, ...]


class SizedNode(NamedTuple):
    """A node whose constant inputs say how much it makes. shapes: the constant shapes among its attributes."""

    op: str
    name: str
    inputs: tuple[str, ...]
    shapes: tuple[Ints, ...] = ()


_PRODUCTS = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1, "Resize": 3}
"""By operator, the input whose elements' product is a number of elements that the output has at least."""

SIZED = frozenset({*_PRODUCTS, "Loop", "Range", "Pad", "RandomNormal", "RandomUniform"})
"""The operators that `size_problems` looks at."""


def size_problems(nodes: Sequence[SizedNode], constants: Mapping[str, Sequence[Ints]]) -> list[str]:
    """What is above the limits in force. constants: values by name; several where graphs in each other share one."""
    limits = current_limits()
    found = []
    for node in nodes:
        for name, count, what in _demands(node, constants):
            if message := limit_message(name, count, f"the node {node.op} '{node.name[:80]}' {what}", limits):
                found.append(message)
    return found


def _demands(node: SizedNode, constants: Mapping[str, Sequence[Ints]]) -> list[tuple[str, int, str]]:
    """Limits, what a node takes of them at least, and that in words."""

    def given(i: int) -> list[Ints]:
        return list(constants.get(node.inputs[i], ())) if i < len(node.inputs) and node.inputs[i] else []

    if node.op == "Loop":
        return _trips(node, given(0))
    shapes = [*node.shapes]
    if node.op in _PRODUCTS:
        shapes += given(_PRODUCTS[node.op])
    elif node.op == "Pad":
        shapes += [(sum(max(0, side) for side in pads),) for pads in given(1)]
    elif node.op == "Range":
        shapes += [
            (max(0, -((end[0] - start[0]) // -step[0])),)
            for start in given(0)
            for end in given(1)
            for step in given(2)
            if start and end and step and step[0]
        ]
    counts = [prod(max(0, side) for side in shape) for shape in shapes]
    return [("elements", count, f"makes {count:,} elements") for count in counts]


def _trips(node: SizedNode, given: Sequence[Ints]) -> list[tuple[str, int, str]]:
    if not node.inputs or not node.inputs[0]:
        return [("trips", 2**63 - 1, "is a loop with no number of trips")]
    return [("trips", trips[0], f"takes {trips[0]:,} trips") for trips in given if trips]


def sparse_problem(shape: Ints, limits: Limits | None = None) -> str | None:
    """Why a sparse tensor of this shape is too large once it is dense."""
    count = prod(shape)
    return limit_message("elements", count, f"a sparse tensor has {count:,} elements", limits)

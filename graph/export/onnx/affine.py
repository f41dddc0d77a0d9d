"""Joining chains of products and sums by channel, as a norm with a weight, a bias, a scale and a shift has them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir

from guidegraph.graph.export.onnx.constants import add_constant

OPERATORS = ("Mul", "Add")

VARIANCE_OFFSET = 1e-5
"""BatchNormalization adds it to a variance, which is 1 minus it for a constant scale and shift."""


@dataclass
class _Chain:
    """x · scale + shift in steps. channels: their number in x. steps: nodes in order, each with its other operand."""

    x: onnx_ir.Value
    channels: Any
    steps: list[tuple[onnx_ir.Node, onnx_ir.Value]]

    @property
    def result(self) -> onnx_ir.Value:
        return self.steps[-1][0].outputs[0]


def join_affine_steps(model: onnx_ir.Model) -> None:
    """Replace chains of `Mul` and `Add` of maps (B, C, H, W) and values of one pixel, in place.

    Each becomes one product and one sum of the maps, whose factors and terms are joined first; or one
    BatchNormalization, if the scale and the shift are constants of the channels.
    """
    for chain in reversed(list(_find_chains(model.graph))):  # as the result of one may be the x of a later one
        constants = [_read_channels(operand) for _, operand in chain.steps]
        if isinstance(chain.channels, int) and all(values is not None for values in constants):
            if len(chain.steps) > 1:
                _normalise(model.graph, chain, constants)
        elif len(chain.steps) > 2:
            _join(model.graph, chain)


def _find_chains(graph: onnx_ir.Graph) -> Iterator[_Chain]:
    """The longest chains, each step of which is read by the next one alone."""
    inside: set[int] = set()
    for node in graph:
        for x in node.inputs if node.op_type in OPERATORS and id(node) not in inside else ():
            chain = _follow(x, node)
            if chain is not None:
                inside.update(id(step) for step, _ in chain.steps)
                yield chain
                break


def _follow(x: onnx_ir.Value | None, node: onnx_ir.Node) -> _Chain | None:
    """The chain from maps and the first step that reads it; None if there is none."""
    sizes = None if x is None else _find_sizes(x)
    if x is None or sizes is None:
        return None
    chain, maps, step = _Chain(x, sizes[1], []), x, node
    while (operand := _find_operand(step, maps, sizes)) is not None:
        maps = step.outputs[0]
        chain.steps.append((step, operand))
        users = list(maps.uses())
        if len(users) != 1 or maps.is_graph_output() or users[0].node.graph is not node.graph:
            break
        step = users[0].node
    return chain if chain.steps else None


def _find_sizes(x: onnx_ir.Value) -> list[Any] | None:
    """The sizes of maps in float32; None for other values, and for unknown sizes."""
    producer = x.producer()
    if x.dtype != onnx_ir.DataType.FLOAT or x.shape is None or len(x.shape) != 4:
        return None
    source = _find_reshaped(producer) if producer is not None and producer.op_type == "Reshape" else None
    sizes = list(x.shape if source is None or source.shape is None else source.shape)
    return None if any(isinstance(size, onnx_ir.SymbolicDim) and size.value is None for size in sizes) else sizes


def _find_reshaped(reshape: onnx_ir.Node) -> onnx_ir.Value | None:
    """The value whose shape a Reshape gives to another value, if it is of this form."""
    target = reshape.inputs[1]
    producer = None if target is None else target.producer()
    if producer is None or producer.op_type != "Shape" or set(producer.attributes) - {"start"}:
        return None
    start = producer.attributes.get("start")
    source = producer.inputs[0]
    is_whole = start is None or start.as_int() == 0
    return source if is_whole and source is not None and source.shape is not None and len(source.shape) == 4 else None


def _find_operand(node: onnx_ir.Node, maps: onnx_ir.Value, sizes: list[Any]) -> onnx_ir.Value | None:
    """The values of one pixel by which a step multiplies maps, or which it adds to them."""
    if node.op_type not in OPERATORS or node.domain or len(node.inputs) != 2:
        return None
    operands = [value for value in node.inputs if value is not maps]
    if len(operands) != 1 or operands[0] is None or operands[0].shape is None:
        return None
    shape = list(operands[0].shape)
    fits = len(shape) in (3, 4) and shape[-2:] == [1, 1] and sizes[2:] != [1, 1]
    padded = [1] * (4 - len(shape)) + shape
    fits = fits and all(size in (1, target) for size, target in zip(padded[:2], sizes[:2], strict=True))
    return operands[0] if fits else None


def _read_channels(value: onnx_ir.Value) -> np.ndarray[Any, Any] | None:
    """A constant for each channel (C), or one for all of them (1); None if the value is neither."""
    if value.const_value is None or any(size != 1 for size in list(value.shape or ())[:-3]):
        return None
    return value.const_value.numpy().reshape(-1)


def _normalise(graph: onnx_ir.Graph, chain: _Chain, constants: list[Any]) -> None:
    """Replace a chain of constants by a batch normalisation with these statistics of each channel."""
    channels = chain.channels
    scale, shift = np.ones(channels, np.float64), np.zeros(channels, np.float64)
    for (node, _), values in zip(chain.steps, constants, strict=True):
        scale, shift = (scale * values, shift * values) if node.op_type == "Mul" else (scale, shift + values)
    name = chain.result.name
    arrays = {
        "scale": scale,
        "shift": shift,
        "mean": np.zeros(channels),
        "variance": np.full(channels, 1 - VARIANCE_OFFSET),
    }
    inputs = [add_constant(graph, f"{name}_{key}", array.astype(np.float32)) for key, array in arrays.items()]
    node = onnx_ir.Node("", "BatchNormalization", [chain.x, *inputs], [onnx_ir.AttrFloat32("epsilon", VARIANCE_OFFSET)])
    _replace(graph, chain, [node])


def _join(graph: onnx_ir.Graph, chain: _Chain) -> None:
    """Replace a chain by one product and one sum, whose operands are computed from those of its steps."""
    nodes: list[onnx_ir.Node] = []

    def compute(op_type: str, a: onnx_ir.Value, b: onnx_ir.Value) -> onnx_ir.Value:
        nodes.append(onnx_ir.Node("", op_type, [a, b]))
        return nodes[-1].outputs[0]

    scale: onnx_ir.Value | None = None
    shift: onnx_ir.Value | None = None
    for node, operand in chain.steps:
        if node.op_type == "Mul":
            scale = operand if scale is None else compute("Mul", scale, operand)
            shift = None if shift is None else compute("Mul", shift, operand)
        else:
            shift = operand if shift is None else compute("Add", shift, operand)
    product = chain.x if scale is None else compute("Mul", chain.x, scale)
    product.shape, product.type = chain.result.shape, chain.result.type
    if shift is not None:
        compute("Add", product, shift)
    _replace(graph, chain, nodes)


def _replace(graph: onnx_ir.Graph, chain: _Chain, nodes: list[onnx_ir.Node]) -> None:
    """Put nodes in the place of a chain's last one; the others are unused from then on."""
    last, result = chain.steps[-1][0], nodes[-1].outputs[0]
    result.shape, result.type = chain.result.shape, chain.result.type
    graph.insert_before(last, nodes)
    chain.result.replace_all_uses_with(result, replace_graph_outputs=True)
    graph.remove(last, safe=True)

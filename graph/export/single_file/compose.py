"""Composing a whole workflow into one ONNX graph: the parts in sequence, and each loop as a `Scan` with its weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.onnx.program import OPSET
from guidegraph.graph.export.partition.leaves import DYNAMIC
from guidegraph.graph.export.single_file.graph_builder import GraphBuilder, GraphInputs, find_used_inputs, prefix_axes
from guidegraph.graph.export.single_file.host_prelude import BUNDLE_REMEDY, HostPrelude
from guidegraph.graph.export.workflow import Exported
from guidegraph_runtime.bundle.manifest import Operation, Tensor
from guidegraph_runtime.running.values import Loop

PIXELS = "uint8"


@dataclass
class SingleGraph:
    """The graph of a workflow. inputs: values of the plan. outputs: the workflow's name of each output."""

    model: onnx_ir.Model
    inputs: list[Tensor]
    outputs: dict[str, str]


def compose_graph(
    exported: Exported, prelude: HostPrelude, examples: Mapping[str, Any], with_pixels: Collection[str]
) -> SingleGraph:
    """Compose an export, planned with ``one_graph``, into one graph.

    examples: of each value that exists before the graph runs. with_pixels: the outputs that the graph also
    returns as pixels. Raises ``ExportError`` for parts that one graph cannot hold.
    """
    main = GraphBuilder("main")
    inputs = GraphInputs(exported, prelude, examples, main)
    _add_operations(PartComposer(exported, inputs), exported.plan, main)
    outputs: list[onnx_ir.Value] = []
    output_names: dict[str, str] = {}
    for name, source in exported.outputs.items():
        value = main.values.get(source)
        if value is None or source in inputs.values:
            raise unmade_output_error(name, source)
        result = main.add("Identity", value)
        result.name = f"{name}.result" if name in inputs.values else name
        result.shape = value.shape
        values = [result, _add_pixels(value, f"{result.name}.{PIXELS}", main)] if name in with_pixels else [result]
        outputs += values
        output_names |= {str(value.name): name for value in values}
    graph = main.graph([*inputs.values.values()], outputs, exported.graph.name or "workflow", OPSET)
    version = max((part.traced.model.ir_version for part in exported.parts), default=10)
    model = onnx_ir.Model(graph, ir_version=version, producer_name="guidegraph")
    return SingleGraph(model, inputs.described, output_names)


def _add_operations(parts: PartComposer, plan: Sequence[Operation], block: GraphBuilder) -> None:
    """Add the traced parts and loops of a plan to a graph; its host operations run before the graph."""
    for operation in plan:
        if operation.op == "part":
            parts.add(operation, block)
        elif operation.op == "loop":
            _add_loop(parts, operation, block)


def _add_loop(parts: PartComposer, operation: Operation, block: GraphBuilder) -> None:
    """Add a loop as a Scan. Its state has the shape and dtype that its first reader in the body takes."""
    loop = Loop.of(operation)
    body = GraphBuilder(operation.node, block)
    body.starts = {name: parts.inputs.read(source, block)[1] for name, source in loop.start.items()}
    _scan_items(parts, loop, block, body)
    states = {}
    for name, start in body.starts.items():
        reader = parts.inputs.readers.get(name)
        if reader is not None and reader.part in (operation.body or ()):
            start = parts.spread(reader.part, reader.port, start, block, body)
        states[name] = start
        body.values[name] = onnx_ir.val(f"{body.prefix}/{name}", dtype=start.dtype, shape=start.shape)
    carried = [body.values[name] for name in states]
    _add_operations(parts, operation.body or (), body)
    following = [_add_result(parts, name, loop.next[name], start, body) for name, start in states.items()]
    collected = [_add_result(parts, name, source, None, body) for name, source in loop.collect.items()]
    graph = body.graph(
        [*carried, *(item for _, item in body.scans)], [*following, *collected], f"{body.prefix}.body", OPSET
    )
    node = onnx_ir.node(
        "Scan",
        [*states.values(), *(sequence for sequence, _ in body.scans)],
        {"body": graph, "num_scan_inputs": len(body.scans)},
        num_outputs=len(following) + len(collected),
        name=body.prefix,
    )
    block.nodes.append(node)
    for i, (value, inner) in enumerate(zip(node.outputs, [*following, *collected], strict=True)):
        value.name = f"{body.prefix}/out_{i}"
        if inner.dtype is not None:
            value.dtype = inner.dtype
        shape = list(inner.shape or ())
        value.shape = onnx_ir.Shape(shape if i < len(following) else [None, *shape])
    order = {name: i for i, name in enumerate(states)}
    block.values |= {name: node.outputs[order[carry]] for name, carry in loop.result.items()}
    block.values |= {name: node.outputs[len(order) + i] for i, name in enumerate(loop.collect)}


def _scan_items(parts: PartComposer, loop: Loop, block: GraphBuilder, body: GraphBuilder) -> None:
    """Add the sequences that a loop scans: its items, the index of each iteration if it is used, and draws."""
    inputs = parts.inputs
    over = block.constant(loop.over, loop.item) if isinstance(loop.over, int) else inputs.read(loop.over, block)[1]
    assert over.shape is not None
    if len(over.shape) == 0:
        body.scan(loop.item, block.numbers(block.cast(over, onnx_ir.DataType.INT64)))
    else:
        item = body.scan(loop.item, over)
        if len(over.shape) == 1:  # a number becomes an axis of 1, for the whole batch
            body.values[loop.item] = body.add("Unsqueeze", item, body.integers(0))
            body.values[loop.item].shape = onnx_ir.Shape([1])
    if loop.index in inputs.readers or loop.index in (*loop.next.values(), *loop.collect.values()):
        count = over if len(over.shape) == 0 else block.add("Squeeze", block.size(over, 0))
        body.scan(loop.index, block.numbers(block.cast(count, onnx_ir.DataType.INT64)))
    for draw in inputs.prelude.drawn_inputs.values():
        if draw.loop is not None and draw.loop.index == loop.index:
            body.scan(draw.name, inputs.add(draw.name))


def _add_result(
    parts: PartComposer, name: str, source: str, state: onnx_ir.Value | None, body: GraphBuilder
) -> onnx_ir.Value:
    """An output of a loop's body: a new value, with the dtype and shape of the state if it is the next one."""
    value = parts.inputs.read(source, body)[1]
    if state is not None and state.dtype is not None:
        value = body.cast(value, state.dtype)
    result = body.add("Identity", value)
    result.name = f"{body.prefix}/next.{name}"
    result.shape = value.shape if state is None or state.shape is None else state.shape
    return result


def unmade_output_error(name: str, source: str) -> ExportError:
    """The error for an output that the graph does not compute."""
    return ExportError(
        f"output '{name}' ('{source}') is there before the graph runs, which gives only what it computes",
        "leave it out of the exported outputs (--only), or " + BUNDLE_REMEDY,
    )


def _add_pixels(value: onnx_ir.Value, name: str, main: GraphBuilder) -> onnx_ir.Value:
    """A value v (B, 3, H, W) in [-1, 1] as uint8 (B, H, W, 3): round((v + 1) · 127.5), clamped."""
    value = main.cast(value, onnx_ir.DataType.FLOAT)
    unit, half, low, high = (main.constant(np.float32(number)) for number in (1, 127.5, 0, 255))
    scaled = main.add("Mul", main.add("Add", value, unit), half)
    rounded = main.add("Clip", main.add("Round", scaled), low, high)
    pixels = main.add("Cast", main.add("Transpose", rounded, perm=[0, 2, 3, 1]), to=int(onnx_ir.DataType.UINT8))
    batch, channels, height, width = value.shape or (None, None, None, None)
    pixels.name, pixels.dtype = name, onnx_ir.DataType.UINT8
    pixels.shape = onnx_ir.Shape([batch, height, width, channels])
    return pixels


class PartComposer:
    """Adds parts to a graph. inputs: of the graph."""

    def __init__(self, exported: Exported, inputs: GraphInputs) -> None:
        self.parts = {part.plan.name: part.traced for part in exported.parts}
        self.inputs = inputs
        self.sizes: dict[tuple[GraphBuilder, str, str], onnx_ir.Value] = {}

    def add(self, operation: Operation, block: GraphBuilder) -> None:
        """Add a part's nodes and weights to a graph."""
        part_name = operation.node
        graph = self.parts[part_name].model.graph.clone()
        used = find_used_inputs(graph)
        for value in list(graph.inputs):
            if value.name in used:
                part_value = self._fit(operation, str(value.name), block)
                value.replace_all_uses_with(part_value, replace_graph_outputs=True)
        outputs, weights, nodes = list(graph.outputs), list(graph.initializers.values()), list(graph)
        inner = list(graph.all_nodes())
        graph.outputs.clear()
        graph.initializers.clear()
        graph.remove(nodes)
        for node in inner:
            node.name = f"{part_name}/{node.name}"
            for value in node.outputs:
                value.name = f"{part_name}/{value.name}"
                prefix_axes(value, part_name)
        for value in weights:
            value.name = f"{part_name}/{value.name}"
        block.nodes += nodes
        block.weights += weights
        block.values.update(zip(operation.outputs, outputs, strict=True))

    def _fit(self, operation: Operation, port: str, block: GraphBuilder) -> onnx_ir.Value:
        """A value for a part's input: cast to its dtype and repeated for the batch, as `guidegraph-run` does.

        A value from outside of a loop is converted outside of it, once.
        """
        source = operation.inputs[port]
        home, value = self.inputs.read(source, block)
        reader = self.inputs.readers.get(source)
        if home is block and source in block.starts and reader is not None and reader.part is operation:
            return value  # a carried value, which has the dtype and shape that its first reader takes
        target = block if home is block else block.outer or block
        return self.spread(operation, port, value, target, block)

    def spread(
        self, operation: Operation, port: str, value: onnx_ir.Value, target: GraphBuilder, block: GraphBuilder
    ) -> onnx_ir.Value:
        """A value in a part's dtype and shape. target: the graph for the new nodes. block: the graph of the part."""
        part = self.parts[operation.node]
        tensor, dims = next(tensor for tensor in part.model.graph.inputs if tensor.name == port), part.inputs[port]
        assert tensor.dtype is not None
        assert tensor.shape is not None
        assert value.shape is not None
        value = target.cast(value, tensor.dtype)
        # Nothing is repeated along an axis that only one input has, or that is the axis of a table's rows.
        shapes = part.inputs.values()
        if len(value.shape or ()) == len(dims) and all(
            size == dim
            if isinstance(dim, int)
            else sum(dim in shape for shape in shapes) == 1 or dim.partition("_")[0] == DYNAMIC["R"]
            for dim, size in zip(dims, value.shape or (), strict=True)
        ):
            return value
        sizes = [dim if isinstance(dim, int) else self._size(operation, dim, block) for dim in dims]
        expanded = target.expand(value, sizes)
        expanded.shape = onnx_ir.Shape(list(tensor.shape))
        prefix_axes(expanded, operation.node)
        return expanded

    def _size(self, operation: Operation, axis: str, block: GraphBuilder) -> onnx_ir.Value:
        """The size of a part's axis: the largest among its inputs, since axes of size 1 are repeated.

        Carried values count with their start; other results of a loop's body do not count.
        """
        outer_block = block.outer or block
        key = outer_block, operation.node, axis
        if key not in self.sizes:
            size_values = [
                outer_block.size(value, dims.index(axis) + extra)
                for port, dims in self.parts[operation.node].inputs.items()
                if axis in dims and (source := operation.inputs[port]) not in self.inputs.prelude.drawn_inputs
                for value, extra in self._outer_values(source, block)
                if value.shape is not None and len(value.shape) == len(dims) + extra
            ]
            if not size_values:
                reason = f"nothing tells the size of '{axis}' of part '{operation.node}' in time"
                raise ExportError(reason, BUNDLE_REMEDY)
            self.sizes[key] = outer_block.add("Max", *size_values) if len(size_values) > 1 else size_values[0]
        return self.sizes[key]

    def _outer_values(self, source: str, block: GraphBuilder) -> list[tuple[onnx_ir.Value, int]]:
        """The values outside of a loop that have the shape of a value read in it, and their number of extra axes."""
        if block.outer is None:
            return [(self.inputs.read(source, block)[1], 0)]
        if source in block.starts:
            return [(block.starts[source], 0)]
        if source in block.item_sequences:
            return [(block.item_sequences[source], 1)]
        home, value = self.inputs.read(source, block)
        return [] if home is block else [(value, 0)]

"""Composing a whole workflow into one ONNX graph: the parts in sequence, and each loop as a `Scan` with its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.onnx.model import OPSET
from guidegraph.graph.export.partition.leaves import DYNAMIC
from guidegraph.graph.export.single_file.graph_builder import GraphBuilder, make_input, prefix_axes
from guidegraph.graph.export.single_file.host_prelude import (
    BUNDLE_REMEDY,
    Dims,
    HostPrelude,
    PartReader,
    find_readers,
    walk_operations,
)
from guidegraph.graph.export.workflow import Exported
from guidegraph_runtime.bundle.manifest import Operation, Tensor
from guidegraph_runtime.running.loops import Loop

STEPS = "steps"
PIXELS = "uint8"


@dataclass
class SingleGraph:
    """The graph of a workflow. inputs: values of the plan. outputs: the workflow's name of each output."""

    model: onnx_ir.Model
    inputs: list[Tensor] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)


def compose_graph(
    exported: Exported, before: HostPrelude, examples: Mapping[str, Any], pictures: Sequence[str]
) -> SingleGraph:
    """Compose an export, planned with ``one_graph``, into one graph.

    given: an example of each value that exists before the graph runs. pictures: the outputs that are pictures, which
    the graph also returns as pixels. Raises ``ExportError`` for parts that one graph cannot hold.
    """
    composer = _Composer(exported, before, examples)
    composer.operations(exported.plan, composer.main)
    outputs = composer.outputs(pictures)
    graph = composer.main.graph([*composer.inputs.values()], outputs, exported.graph.name or "workflow", OPSET)
    version = max((part.traced.model.ir_version for part in exported.parts), default=10)
    model = onnx_ir.Model(graph, ir_version=version, producer_name="guidegraph")
    return SingleGraph(model, composer.described, composer.output_names)


class _Composer:
    """Composes the graph. inputs, described: of the graph. output_names: the workflow's name of each output."""

    def __init__(self, exported: Exported, before: HostPrelude, examples: Mapping[str, Any]) -> None:
        self.exported, self.before, self.examples = exported, before, examples
        self.parts = {exported_part.plan.name: exported_part.traced for exported_part in exported.parts}
        self.main = GraphBuilder("main")
        self.inputs: dict[str, onnx_ir.Value] = {}
        self.described: list[Tensor] = []
        self.output_names: dict[str, str] = {}
        self.readers = find_readers(
            exported.plan, {name: _find_used_inputs(part.model.graph) for name, part in self.parts.items()}
        )
        self.loop_sources = {
            Loop.of(exported_part).over
            for exported_part in walk_operations(exported.plan)
            if exported_part.op == "loop"
        }
        self.sizes: dict[tuple[GraphBuilder, str, str], onnx_ir.Value] = {}

    def operations(self, plan: Sequence[Operation], region: GraphBuilder) -> None:
        """Add the traced parts and loops of a plan to a graph; its host operations run before the graph."""
        for operation in plan:
            if operation.op == "part":
                self._part(operation, region)
            elif operation.op == "loop":
                self._loop(operation, region)

    def outputs(self, pictures: Sequence[str]) -> list[onnx_ir.Value]:
        values = []
        for name, source in self.exported.outputs.items():
            value = self.main.values.get(source)
            if value is None or source in self.inputs:
                raise ExportError(
                    f"output '{name}' ('{source}') is there before the graph runs, which gives only what it computes",
                    "leave it out of the exported outputs (--only), or " + BUNDLE_REMEDY,
                )
            output_name = f"{name}.result" if name in self.inputs else name
            result = self.main.add("Identity", value)
            result.name, result.shape = output_name, value.shape
            values.append(result)
            self.output_names[output_name] = name
            if name in pictures:
                values.append(self._pixels(value, f"{output_name}.{PIXELS}"))
                self.output_names[f"{output_name}.{PIXELS}"] = name
        return values

    def _pixels(self, picture: onnx_ir.Value, name: str) -> onnx_ir.Value:
        """A picture (B, 3, H, W) as uint8 (B, H, W, 3): round((v + 1) · 127.5), clamped."""
        main = self.main
        picture = main.cast(picture, onnx_ir.DataType.FLOAT)
        unit, half, low, high = (main.constant(np.float32(number)) for number in (1, 127.5, 0, 255))
        scaled = main.add("Mul", main.add("Add", picture, unit), half)
        rounded = main.add("Clip", main.add("Round", scaled), low, high)
        pixels = main.add("Cast", main.add("Transpose", rounded, perm=[0, 2, 3, 1]), to=int(onnx_ir.DataType.UINT8))
        batch, channels, height, width = picture.shape or (None, None, None, None)
        pixels.name, pixels.dtype = name, onnx_ir.DataType.UINT8
        pixels.shape = onnx_ir.Shape([batch, height, width, channels])
        return pixels

    def read(self, name: str, region: GraphBuilder) -> tuple[GraphBuilder, onnx_ir.Value]:
        """The value with a name, and its graph; an unknown name becomes a table or an input of the main graph."""
        if graph_and_value := region.find(name):
            return graph_and_value
        if name in self.exported.host.tables:
            table = self.exported.host.tables[name]
            self.main.values[name] = self.main.constant(table.detach().cpu().numpy(), name)
        else:
            self.main.values[name] = self._input(name)
        return self.main, self.main.values[name]

    def _input(self, name: str) -> onnx_ir.Value:
        """Add an input to the graph."""
        reader, draw = self.readers.get(name), self.before.noise_inputs.get(name)
        if draw is not None:
            if reader is None:
                raise ExportError(f"nothing in the graph takes the noise '{name}'", BUNDLE_REMEDY)
            dtype, dims = reader.dtype, ((STEPS,) if draw.loop else ()) + reader.dims
        else:
            dtype, dims = _input_type(np.asarray(self.examples[name]), reader)
            if reader is None and name in self.loop_sources:
                dims = (STEPS, *dims[1:]) if dims else ()
        self.described.append(Tensor(name, dtype, dims))
        self.inputs[name] = make_input(name, dtype, dims)
        prefix_axes(self.inputs[name], name)
        return self.inputs[name]

    def _part(self, operation: Operation, region: GraphBuilder) -> None:
        """Add a part's nodes and weights to a graph."""
        part_name = operation.node
        graph = self.parts[part_name].model.graph.clone()
        used = _find_used_inputs(graph)
        for value in list(graph.inputs):
            if value.name in used:
                part_value = self._fit(operation, str(value.name), region)
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
        region.nodes += nodes
        region.weights += weights
        region.values.update(zip(operation.outputs, outputs, strict=True))

    def _fit(self, operation: Operation, port: str, region: GraphBuilder) -> onnx_ir.Value:
        """A value for a part's input: cast to its dtype and repeated for the batch, as `guidegraph-run` does.

        A value from outside of a loop is converted outside of it, once.
        """
        source = operation.inputs[port]
        home, value = self.read(source, region)
        if home is region and source in region.starts and self._is_start(operation, source):
            return value
        stays_inside = home is region or region.outer is None
        return self._spread(operation, port, value, region if stays_inside else region.outer or region, region)

    def _is_start(self, operation: Operation, source: str) -> bool:
        """Whether a carried value already has the dtype and shape that this part takes."""
        reader = self.readers.get(source)
        return reader is not None and reader.part is operation

    def _spread(
        self, operation: Operation, port: str, value: onnx_ir.Value, target: GraphBuilder, region: GraphBuilder
    ) -> onnx_ir.Value:
        """A value in a part's dtype and shape. target: the graph for the new nodes. region: the graph of the part."""
        tensor = next(
            candidate for candidate in self.parts[operation.node].model.graph.inputs if candidate.name == port
        )
        assert tensor.dtype is not None
        assert tensor.shape is not None
        assert value.shape is not None
        dims = self.parts[operation.node].inputs[port]
        value = target.cast(value, tensor.dtype)
        if len(value.shape or ()) == len(dims) and all(
            size == dim if isinstance(dim, int) else self._is_unshared(operation, dim)
            for dim, size in zip(dims, value.shape or (), strict=True)
        ):
            return value
        sizes = [dim if isinstance(dim, int) else self._size(operation, dim, target, region) for dim in dims]
        expanded = target.expand(value, sizes)
        expanded.shape = onnx_ir.Shape(list(tensor.shape))
        prefix_axes(expanded, operation.node)
        return expanded

    def _is_unshared(self, operation: Operation, axis: str) -> bool:
        """Whether nothing is repeated along an axis: only one input has it, or it is the axis of a table's rows."""
        shapes = self.parts[operation.node].inputs
        return sum(axis in dims for dims in shapes.values()) == 1 or axis.partition("_")[0] == DYNAMIC["R"]

    def _size(self, operation: Operation, axis: str, target: GraphBuilder, region: GraphBuilder) -> onnx_ir.Value:
        """The size of a part's axis: the largest among its inputs, since axes of size 1 are repeated.

        Carried values count with their start; other results of a loop's body do not count.
        """
        outer_region = region.outer or region
        key = outer_region, operation.node, axis
        if key not in self.sizes:
            size_values = [
                outer_region.size(value, dims.index(axis) + extra)
                for port, dims in self.parts[operation.node].inputs.items()
                if axis in dims and (source := operation.inputs[port]) not in self.before.noise_inputs
                for value, extra in self._outer_values(source, region)
                if value.shape is not None and len(value.shape) == len(dims) + extra
            ]
            if not size_values:
                raise ExportError(
                    f"nothing tells the size of '{axis}' of part '{operation.node}' in time", BUNDLE_REMEDY
                )
            self.sizes[key] = outer_region.add("Max", *size_values) if len(size_values) > 1 else size_values[0]
        return self.sizes[key]

    def _outer_values(self, source: str, region: GraphBuilder) -> list[tuple[onnx_ir.Value, int]]:
        """The values outside of a loop that have the shape of a value read in it, and their number of extra axes."""
        if region.outer is None:
            return [(self.read(source, region)[1], 0)]
        if source in region.starts:
            return [(region.starts[source], 0)]
        if source in region.item_sequences:
            return [(region.item_sequences[source], 1)]
        home, value = self.read(source, region)
        return [] if home is region else [(value, 0)]

    def _loop(self, operation: Operation, region: GraphBuilder) -> None:
        """Add a loop as a Scan. Its state has the shape and dtype that its first reader in the body takes."""
        loop = Loop.of(operation)
        body = GraphBuilder(operation.node, region)
        body.starts = {name: self.read(source, region)[1] for name, source in loop.start.items()}
        self._scan_items(loop, region, body)
        states = {}
        for name, start in body.starts.items():
            reader = self.readers.get(name)
            if reader is not None and reader.part in (operation.body or ()):
                start = self._spread(reader.part, reader.port, start, region, body)
            states[name] = start
            body.values[name] = onnx_ir.val(f"{body.prefix}/{name}", dtype=start.dtype, shape=start.shape)
        carried = [body.values[name] for name in states]
        self.operations(operation.body or (), body)
        following = [
            self._result(name, loop.next[name], start.dtype, start.shape, body) for name, start in states.items()
        ]
        collected = [self._result(name, value_name, None, None, body) for name, value_name in loop.collect.items()]
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
        region.nodes.append(node)
        for i, (value, inner) in enumerate(zip(node.outputs, [*following, *collected], strict=True)):
            value.name = f"{body.prefix}/out_{i}"
            if inner.dtype is not None:
                value.dtype = inner.dtype
            shape = list(inner.shape or ())
            value.shape = onnx_ir.Shape(shape if i < len(following) else [None, *shape])
        order = {name: i for i, name in enumerate(states)}
        region.values |= {name: node.outputs[order[carry]] for name, carry in loop.result.items()}
        region.values |= {name: node.outputs[len(order) + i] for i, name in enumerate(loop.collect)}

    def _scan_items(self, loop: Loop, region: GraphBuilder, body: GraphBuilder) -> None:
        """Add the sequences that a loop scans: its items, the index of each iteration if it is used, and noise."""
        over = region.constant(loop.over, loop.item) if isinstance(loop.over, int) else self.read(loop.over, region)[1]
        assert over.shape is not None
        if len(over.shape) == 0:
            body.scan(loop.item, region.numbers(region.cast(over, onnx_ir.DataType.INT64)))
        else:
            item = body.scan(loop.item, over)
            if len(over.shape) == 1:  # a number becomes an axis of 1, for the whole batch
                body.values[loop.item] = body.add("Unsqueeze", item, body.integers(0))
                body.values[loop.item].shape = onnx_ir.Shape([1])
        if loop.index in self.readers or loop.index in (*loop.next.values(), *loop.collect.values()):
            count = over if len(over.shape) == 0 else region.add("Squeeze", region.size(over, 0))
            body.scan(loop.index, region.numbers(region.cast(count, onnx_ir.DataType.INT64)))
        for draw in self.before.noise_inputs.values():
            if draw.loop is not None and draw.loop.index == loop.index:
                body.scan(draw.name, self._input(draw.name))

    def _result(
        self, name: str, source: str, dtype: onnx_ir.DataType | None, shape: onnx_ir.Shape | None, body: GraphBuilder
    ) -> onnx_ir.Value:
        """An output of a loop's body: a new value with the dtype and shape of the state."""
        value = self.read(source, body)[1]
        result = body.add("Identity", value if dtype is None else body.cast(value, dtype))
        result.name = f"{body.prefix}/next.{name}"
        result.shape = shape if shape is not None else value.shape
        return result


def _find_used_inputs(graph: onnx_ir.Graph) -> dict[str, tuple[str, Dims]]:
    """Dtype and dims of the inputs that a graph uses."""
    return {
        str(value.name): (
            str(value.dtype.numpy()) if value.dtype is not None else "",
            tuple(size if isinstance(size, int) else str(size.value) for size in value.shape or ()),
        )
        for value in graph.inputs
        if value.uses() or value.is_graph_output()
    }


def _input_type(example: Any, reader: PartReader | None) -> tuple[str, Dims]:
    """Dtype and dims of a graph's input: those of its reader if the example has the same number of axes."""
    if reader is None:
        return str(example.dtype), tuple(f"axis_{i}" for i in range(example.ndim))
    if example.ndim != len(reader.dims):
        return reader.dtype, tuple(example.shape)
    return reader.dtype, tuple(
        dim if isinstance(dim, str) or dim == size else f"axis_{i}"
        for i, (dim, size) in enumerate(zip(reader.dims, example.shape, strict=True))
    )

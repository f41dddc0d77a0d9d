"""The traced parts of a workflow in one graph, with their inputs cast and repeated as the runtime does."""

from __future__ import annotations

import onnx_ir

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.partition.leaves import DYNAMIC
from guidegraph.graph.export.single_file.graph_builder import GraphBuilder, prefix_axes
from guidegraph.graph.export.single_file.graph_inputs import GraphInputs, find_used_inputs
from guidegraph.graph.export.single_file.host_prelude import BUNDLE_REMEDY
from guidegraph.graph.export.workflow import Exported
from guidegraph_runtime.bundle.manifest import Operation


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

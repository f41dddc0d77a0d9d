"""Building an ONNX graph: its nodes, its weights, and its values by their names in the host plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import onnx_ir

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.single_file.host_prelude import (
    BUNDLE_REMEDY,
    Dims,
    HostPrelude,
    PartReader,
    count_iterations,
    find_readers,
)
from guidegraph.graph.export.workflow import Exported
from guidegraph_runtime.bundle.manifest_types import Tensor, walk_operations
from guidegraph_runtime.running.single_file import STEPS
from guidegraph_runtime.running.values import Loop


@dataclass(eq=False)
class GraphBuilder:
    """The main graph, or the body of a loop.

    prefix: of the names of its values. outer: the graph around a body. starts: the start of each carried value, in the
    outer graph. item_sequences: by name of a per-iteration value, its sequence in the outer graph. scans: pairs of such
    a sequence and its item in the body.
    """

    prefix: str
    outer: GraphBuilder | None = None
    nodes: list[onnx_ir.Node] = field(default_factory=list)
    weights: list[onnx_ir.Value] = field(default_factory=list)
    values: dict[str, onnx_ir.Value] = field(default_factory=dict)
    starts: dict[str, onnx_ir.Value] = field(default_factory=dict)
    item_sequences: dict[str, onnx_ir.Value] = field(default_factory=dict)
    scans: list[tuple[onnx_ir.Value, onnx_ir.Value]] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def add(self, operator: str, *inputs: onnx_ir.Value, **attributes: Any) -> onnx_ir.Value:
        """Add a node and return its output, whose dtype is that of the first input."""
        name = f"{self.prefix}/{operator}_{next(self._numbers)}"
        node = onnx_ir.node(operator, list(inputs), attributes, name=name)
        node.outputs[0].name = f"{name}.out"
        if inputs and inputs[0].dtype is not None:
            node.outputs[0].dtype = inputs[0].dtype
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, value: Any, name: str = "") -> onnx_ir.Value:
        """Add an initialiser with this value."""
        array = np.asarray(value)
        name = f"{self.prefix}/{name or f'constant_{next(self._numbers)}'}"
        weight = onnx_ir.val(name, const_value=onnx_ir.tensor(array, name=name))
        self.weights.append(weight)
        return weight

    def integers(self, *values: int) -> onnx_ir.Value:
        return self.constant(np.array(values, dtype=np.int64))

    def cast(self, value: onnx_ir.Value, dtype: onnx_ir.DataType) -> onnx_ir.Value:
        """The value cast to a dtype; the value itself if it has that dtype."""
        if value.dtype == dtype:
            return value
        result = self.add("Cast", value, to=int(dtype))
        result.dtype, result.shape = dtype, value.shape
        return result

    def size(self, value: onnx_ir.Value, axis: int) -> onnx_ir.Value:
        """The size of an axis as int64 (1)."""
        result = self.add("Shape", value, start=axis, end=axis + 1)
        result.dtype = onnx_ir.DataType.INT64
        return result

    def numbers(self, count: onnx_ir.Value) -> onnx_ir.Value:
        """The numbers 0, 1, … count - 1 as int64."""
        result = self.add("Range", self.constant(np.int64(0)), count, self.constant(np.int64(1)))
        result.shape = onnx_ir.Shape([None])
        return result

    def expand(self, value: onnx_ir.Value, sizes: Sequence[int | onnx_ir.Value]) -> onnx_ir.Value:
        """The value expanded to these sizes: missing axes are appended, and axes of size 1 repeated."""
        assert value.shape is not None
        rank = len(value.shape)
        if rank < len(sizes):
            value = self.add("Unsqueeze", value, self.integers(*range(rank, len(sizes))))
        size_values = [self.integers(size) if isinstance(size, int) else size for size in sizes]
        # Concat even a single size: onnxruntime warns about an Expand whose sizes come directly from another node.
        return self.add("Expand", value, self.add("Concat", *size_values, axis=0))

    def scan(self, name: str, sequence: onnx_ir.Value) -> onnx_ir.Value:
        """Add a sequence to scan along its first axis, and return its item in the body."""
        assert sequence.shape is not None
        dims = [d if isinstance(d, int) else onnx_ir.SymbolicDim(d.value) for d in sequence.shape[1:]]
        item = onnx_ir.val(f"{self.prefix}/{name}", dtype=sequence.dtype, shape=onnx_ir.Shape(dims))
        self.item_sequences[name] = sequence
        self.scans.append((sequence, item))
        self.values[name] = item
        return item

    def find(self, name: str) -> tuple[GraphBuilder, onnx_ir.Value] | None:
        """The value with a name, and the graph that contains it."""
        if name in self.values:
            return self, self.values[name]
        return None if self.outer is None else self.outer.find(name)

    def graph(
        self, inputs: Sequence[onnx_ir.Value], outputs: Sequence[onnx_ir.Value], name: str, opset: int
    ) -> onnx_ir.Graph:
        return onnx_ir.Graph(
            inputs, outputs, nodes=self.nodes, initializers=self.weights, name=name, opset_imports={"": opset}
        )


def make_input(name: str, dtype: str, dims: Sequence[int | str | None]) -> onnx_ir.Value:
    """A value for a graph's input. dtype: NumPy's name."""
    shape = onnx_ir.Shape([size if isinstance(size, int) else onnx_ir.SymbolicDim(size) for size in dims])
    return onnx_ir.val(name, dtype=onnx_ir.DataType.from_numpy(np.dtype(dtype)), shape=shape)


def prefix_axes(value: onnx_ir.Value, prefix: str) -> None:
    """Prefix the names of a value's free axes, since the same name may mean another size in another part."""
    if value.shape is None or value.shape.is_static():
        return
    dims = [d if isinstance(d, int) else onnx_ir.SymbolicDim(d.value and f"{prefix}.{d.value}") for d in value.shape]
    value.shape = onnx_ir.Shape(dims)


class GraphInputs:
    """Adds inputs and tables to a graph when they are first read. values, described: the inputs.

    main: the graph. examples: of each value that exists before the graph runs. readers: by value, the first part that
    reads it.
    """

    def __init__(
        self, exported: Exported, prelude: HostPrelude, examples: Mapping[str, Any], main: GraphBuilder
    ) -> None:
        self.prelude, self.examples, self.main, self.tables = prelude, examples, main, exported.host.tables
        self.values: dict[str, onnx_ir.Value] = {}
        self.described: list[Tensor] = []
        used = {part.plan.name: find_used_inputs(part.traced.model.graph) for part in exported.parts}
        self.readers = find_readers(exported.plan, used)
        loops = (operation for operation in walk_operations(exported.plan) if operation.op == "loop")
        self.loop_sources = {Loop.of(operation).over for operation in loops}

    def read(self, name: str, block: GraphBuilder) -> tuple[GraphBuilder, onnx_ir.Value]:
        """The value with a name, and its graph; an unknown name becomes a table or an input of the main graph."""
        if graph_and_value := block.find(name):
            return graph_and_value
        table = self.tables.get(name)
        value = self.add(name) if table is None else self.main.constant(table.detach().cpu().numpy(), name)
        self.main.values[name] = value
        return self.main, value

    def add(self, name: str) -> onnx_ir.Value:
        """Add an input to the graph."""
        reader, draw = self.readers.get(name), self.prelude.drawn_inputs.get(name)
        if draw is not None:
            if reader is None:
                raise ExportError(f"nothing in the graph takes the random numbers '{name}'", BUNDLE_REMEDY)
            count: Dims = () if draw.loop is None else (count_iterations(draw.loop, self.tables) or STEPS,)
            dtype, dims = reader.dtype, count + reader.dims
        else:
            dtype, dims = _input_type(np.asarray(self.examples[name]), reader)
            if reader is None and name in self.loop_sources:
                dims = (STEPS, *dims[1:]) if dims else ()
        self.described.append(Tensor(name, dtype, dims))
        value = self.values[name] = make_input(name, dtype, dims)
        prefix_axes(value, name)
        return value


def find_used_inputs(graph: onnx_ir.Graph) -> dict[str, tuple[str, Dims]]:
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

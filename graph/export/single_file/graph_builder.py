"""Building an ONNX graph: its nodes, its weights, and its values by their names in the host plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import onnx_ir


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

"""The values that a composed graph takes from outside: its inputs, and the tables of the workflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.single_file.graph_builder import GraphBuilder, make_input, prefix_axes
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
from guidegraph_runtime.running.loops import Loop
from guidegraph_runtime.running.single_file import STEPS


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

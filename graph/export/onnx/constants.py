"""Adding constants to an ONNX graph."""

from __future__ import annotations

from typing import Any

import onnx_ir
from numpy.typing import NDArray


def add_constant(graph: onnx_ir.Graph, name: str, array: NDArray[Any]) -> onnx_ir.Value:
    """A new initialiser of a graph. Raises ``ValueError`` if the graph has another one of this name."""
    value = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(array, name=name))
    value.shape = onnx_ir.Shape(array.shape)
    value.type = onnx_ir.TensorType(onnx_ir.DataType.from_numpy(array.dtype))
    graph.register_initializer(value)
    return value

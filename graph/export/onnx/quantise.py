"""Quantising weights of matrix products to 8-bit integers, with a scale for each column, in standard operators.

The weights of convolutions are not quantised: rounding them costs more picture quality than it saves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from guidegraph.graph.export.onnx.constants import add_constant
from guidegraph.graph.export.onnx.model import TracedPart

MIN_WEIGHTS = 1024
"""Weights with fewer elements are not quantised."""


def quantise_weights(part: TracedPart) -> TracedPart:
    """The part with W ≈ s · round(W / s) in every MatMul and Gemm, s = max |W| / 127 of each output's weights.

    Products stay float32, so the graph runs wherever the part does. The part's own graph is not changed.
    """

    model = part.model.clone()
    graph = model.graph
    dequantised_weights: dict[tuple[int, int], onnx_ir.Value] = {}
    for node in list(graph):
        if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx"):
            continue
        weight = node.inputs[1]
        if weight is None or weight.name not in graph.initializers or weight.const_value is None:
            continue
        array = weight.const_value.numpy()
        if array.ndim != 2 or array.dtype != np.float32 or array.size < MIN_WEIGHTS:
            continue
        axis = 0 if node.op_type == "Gemm" and "transB" in node.attributes and node.attributes["transB"].value else 1
        key = (id(weight), axis)
        if key not in dequantised_weights:
            dequantised_weights[key] = _add_dequantised(graph, weight, array, axis)
        node.replace_input_with(1, dequantised_weights[key])
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            graph.initializers.pop(name)
    return replace(part, model=model)


def _add_dequantised(graph: onnx_ir.Graph, weight: onnx_ir.Value, array: NDArray[Any], axis: int) -> onnx_ir.Value:
    scale = np.abs(array).max(axis=1 - axis).astype(np.float32) / 127
    scale[scale == 0] = 1.0
    rounded = np.clip(np.rint(array / np.expand_dims(scale, 1 - axis)), -127, 127).astype(np.int8)
    values = []
    for suffix, data in (("int8", rounded), ("scale", scale)):
        values.append(add_constant(graph, f"{weight.name}_{suffix}_{axis}", data))
    node = onnx_ir.node("DequantizeLinear", values, {"axis": axis}, name=f"{weight.name}_dequantise_{axis}")
    out = node.outputs[0]
    out.name, out.shape, out.type = f"{weight.name}_float_{axis}", weight.shape, weight.type
    graph.insert_before(graph[0], node)
    return out

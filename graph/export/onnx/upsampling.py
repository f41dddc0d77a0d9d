"""Joining an upsampling by 2 and the convolution after it to a transposed convolution with fewer products.

Each of the four pixels that an upsampling makes of one sees only 2 × 2 different pixels in a window of 3 × 3, so 16
products for the four are enough in place of 36 (Shi et al. 2016, "Is the deconvolution layer the same as a
convolutional layer?").
"""

from __future__ import annotations

import numpy as np
import onnx_ir

from guidegraph.graph.export.onnx.constants import add_constant

SPREAD = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)
"""The rows of the 3 × 3 kernel that meet in each row of the transposed kernel of 4 × 4."""


def join_upsampling(model: onnx_ir.Model) -> None:
    """Replace pairs of a nearest-neighbour Resize by 2 and a 3 × 3 Conv, in place.

    The new kernel is computed from the same weight, which keeps its name and values; onnxruntime does that once.
    """
    for resize in filter(_doubles, list(model.graph)):
        maps = resize.outputs[0]
        users = [use.node for use in maps.uses()]
        if not maps.is_graph_output() and all(user.graph is resize.graph and _fits(user, maps) for user in users):
            for conv in users:
                _join(model.graph, resize, conv)


def _doubles(node: onnx_ir.Node) -> bool:
    """Whether a node repeats each pixel of maps twice along both axes."""
    if node.op_type != "Resize" or len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    scales, modes = node.inputs[2].const_value, ("mode", "coordinate_transformation_mode", "nearest_mode")
    options = [node.attributes[name].as_string() if name in node.attributes else "" for name in modes]
    return (
        options == ["nearest", "asymmetric", "floor"]
        and scales is not None
        and scales.numpy().tolist() == [1, 1, 2, 2]
        and node.inputs[0] is not None
        and node.inputs[0].dtype == onnx_ir.DataType.FLOAT
    )


def _fits(conv: onnx_ir.Node, maps: onnx_ir.Value) -> bool:
    """Whether a node is a convolution of these maps by 3 × 3 that keeps their size, with a constant weight."""
    weight = conv.inputs[1] if conv.op_type == "Conv" else None
    if weight is None or weight.const_value is None or list(weight.const_value.shape)[2:] != [3, 3]:
        return False
    expected = {"strides": [1, 1], "dilations": [1, 1], "pads": [1, 1, 1, 1]}
    attributes = conv.attributes
    numbers = {name: list(attributes[name].as_ints()) for name in expected if name in attributes}
    group = attributes["group"].as_int() if "group" in attributes else 1
    pads = attributes["auto_pad"].as_string() if "auto_pad" in attributes else "NOTSET"
    return conv.inputs[0] is maps and numbers == expected and (group, pads) == (1, "NOTSET")


def _join(graph: onnx_ir.Graph, resize: onnx_ir.Node, conv: onnx_ir.Node) -> None:
    """Put a transposed convolution in the place of a convolution."""
    name = conv.outputs[0].name
    left, right = add_constant(graph, f"{name}_rows", SPREAD), add_constant(graph, f"{name}_columns", SPREAD.T)
    swapped = onnx_ir.node("Transpose", [conv.inputs[1]], {"perm": [1, 0, 2, 3]})
    tall = onnx_ir.node("MatMul", [left, swapped.outputs[0]])
    kernel = onnx_ir.node("MatMul", [tall.outputs[0], right])
    attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1], "kernel_shape": [4, 4]}
    inputs = [resize.inputs[0], kernel.outputs[0], *conv.inputs[2:]]
    joined = onnx_ir.node("ConvTranspose", inputs, attributes)
    result = conv.outputs[0]
    joined.outputs[0].shape, joined.outputs[0].type = result.shape, result.type
    graph.insert_before(conv, [swapped, tall, kernel, joined])
    result.replace_all_uses_with(joined.outputs[0], replace_graph_outputs=True)
    graph.remove(conv, safe=True)

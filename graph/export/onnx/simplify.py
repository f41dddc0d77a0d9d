"""Optimising an ONNX graph: constant folding, removal of unused operations, and merging of equal weights.

Joining an upsampling by 2 and the convolution after it to a transposed convolution with fewer products.

Each of the four pixels that an upsampling makes of one sees only 2 × 2 different pixels in a window of 3 × 3, so 16
products for the four are enough in place of 36 (Shi et al. 2016, "Is the deconvolution layer the same as a
convolutional layer?").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir
import onnxscript.rewriter
import torch
from onnx_ir.passes import Sequential, common
from onnxscript.optimizer import _constant_folding

from guidegraph.graph.export.onnx.affine import join_affine_steps
from guidegraph.graph.export.onnx.constants import add_constant

QUADRATIC = {"SlicesSplit"}
"""Rules of onnxscript that walk the whole graph for every node, which takes minutes for a large U-Net."""

ROUNDS = 2


def optimise(model: onnx_ir.Model) -> None:
    """Optimise a model converted by torch with onnxscript's optimisations, without its slow rules."""
    merge_weights(model)
    common.InlinePass()(model)
    common.CommonSubexpressionEliminationPass()(model)  # one transposed weight for all calls of a network, to be folded
    rules: list[Any] = [
        _OperatorRule(rule) for rule in onnxscript.rewriter._DEFAULT_REWRITE_RULES if rule.name not in QUADRATIC
    ]
    for _ in range(ROUNDS):
        _FoldConstants(
            shape_inference=True,
            input_size_limit=_constant_folding.DEFAULT_CONSTANT_FOLD_INPUT_SIZE_LIMIT,
            output_size_limit=_constant_folding.DEFAULT_CONSTANT_FOLD_OUTPUT_SIZE_LIMIT,
            should_fold=_may_fold,
        )(model)
        onnxscript.rewriter.rewrite(model, rules)
    join_affine_steps(model)
    join_upsampling(model)
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
        common.RemoveUnusedNodesPass(),
    )(model)


def _may_fold(node: onnx_ir.Node) -> bool | None:
    """False for the transposed weight of a convolution, of three axes or more; None leaves it to onnxscript.

    The gradient of a convolution reads its weight in this form, which would not follow a LoRA as a second constant.
    """
    weight = node.inputs[0] if node.op_type == "Transpose" else None
    return False if weight is not None and weight.shape is not None and len(weight.shape) > 2 else None


class _FoldConstants(_constant_folding.FoldConstantsPass):
    """onnxscript's constant folding, which infers only shapes that are not known from the trace or an earlier round."""

    def _do_inference(self, node: onnx_ir.Node) -> None:
        if any(output.shape is None or output.type is None for output in node.outputs):
            super()._do_inference(node)


class _OperatorRule:
    """A rule of onnxscript that is tried only at nodes with the operator at the end of its pattern.

    Its constants 0 and 1 are matched exactly: onnxscript takes a summand up to 1e-8 for 0, so that the 1e-8 that keeps
    a quotient finite is dropped, and a factor of 1.00001 for 1.
    """

    def __init__(self, rule: Any) -> None:
        self._rule = rule
        for constant in [value for node in rule._target_pattern for value in node.inputs if hasattr(value, "_abs_tol")]:
            if constant._value in (0, 1):
                constant._rel_tol = constant._abs_tol = 0.0
        identifier = rule._target_pattern.output_nodes[0].op_identifier()
        self._operator = None if identifier is None else identifier[1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def try_rewrite(self, model: onnx_ir.Model, graph: Any, node: onnx_ir.Node, **options: Any) -> Any:
        """The rule's replacement of a node; None if it does not apply."""
        if self._operator is None or node.op_type == self._operator:
            return self._rule.try_rewrite(model, graph, node, **options)
        return None


def merge_weights(model: onnx_ir.Model) -> None:
    """Use one initialiser for all uses of a tensor; torch.export makes one for each."""
    kept: dict[Any, onnx_ir.Value] = {}
    for name, value in list(model.graph.initializers.items()):
        raw = getattr(value.const_value, "raw", None)
        if not isinstance(raw, torch.Tensor) or not raw.numel():
            continue
        key = (raw.data_ptr(), raw.dtype, tuple(raw.shape), raw.stride(), raw.device)
        if kept.setdefault(key, value) is not value:
            value.replace_all_uses_with(kept[key])
            model.graph.initializers.pop(name)


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

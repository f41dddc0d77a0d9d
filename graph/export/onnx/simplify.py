"""Optimising an ONNX graph: constant folding, removal of unused operations, and merging of equal weights."""

from __future__ import annotations

from typing import Any

import onnx_ir
import onnxscript.rewriter
import torch
from onnx_ir.passes import Sequential, common
from onnxscript.optimizer import _constant_folding

from guidegraph.graph.export.onnx.affine import join_affine_steps
from guidegraph.graph.export.onnx.upsampling import join_upsampling

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
    """A rule of onnxscript that is tried only at nodes with the operator at the end of its pattern."""

    def __init__(self, rule: Any) -> None:
        self._rule = rule
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

"""Simplifying a trace: without the operators that only autograd needs, and with equal calls merged."""

from __future__ import annotations

import operator as python_operator
from typing import Any, cast

import torch
from torch.fx import GraphModule, Node

from guidegraph.graph.export.onnx.program import is_functional
from guidegraph.graph.torch_private import enter_autocast, exit_autocast, set_grad_enabled, statically_known_true

DETACHES = (torch.ops.aten.detach.default, torch.ops.aten.detach_.default)
CONTEXTS = (set_grad_enabled, enter_autocast, exit_autocast)
"""Calls in a trace above autograd that change no result, as autocast is off there."""


def simplify(graph: GraphModule) -> GraphModule:
    """The graph without operators that only autograd needs, and with equal operations and equal sizes merged."""
    for node in reversed(graph.graph.nodes):  # the exit from a context refers to its entry
        if node.target in DETACHES:
            node.replace_all_uses_with(node.args[0])
        if node.target in DETACHES or node.target in CONTEXTS:
            graph.graph.erase_node(node)
        if node.target is torch.ops.aten.sym_numel.default:
            _multiply_sizes(graph, node)
        if node.target is torch.ops.aten._unsafe_view.default:
            _join_repeats(graph, node)
    _merge_equal_calls(graph)
    sizes: dict[Any, Node] = {}
    for node in list(graph.graph.nodes):
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) and (size := sizes.setdefault(value.node.expr, node)) is not node:
            node.replace_all_uses_with(size)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _multiply_sizes(graph: GraphModule, numel: Node) -> None:
    """Replace a number of elements, for which ONNX has no operator, by the product of the sizes."""
    tensor: Any = numel.args[0]
    product: Any = 1
    with graph.graph.inserting_before(numel):
        for axis, size in enumerate(tensor.meta["val"].shape):
            factor: Any = size
            if isinstance(size, torch.SymInt):
                factor = graph.graph.call_function(torch.ops.aten.sym_size.int, (tensor, axis))
                factor.meta["val"] = size
            if not isinstance(product, Node) and not isinstance(factor, Node):
                product *= factor
                continue
            value = (product.meta["val"] if isinstance(product, Node) else product) * size
            product = graph.graph.call_function(python_operator.mul, (product, factor))
            product.meta["val"] = value
    numel.replace_all_uses_with(product)
    graph.graph.erase_node(numel)


def _join_repeats(graph: GraphModule, view: Node) -> None:
    """Replace pixels that were repeated by an expanded view, which is slow in onnxruntime, by a resize.

    Only of float16 and float32: onnxruntime resizes few other types.
    """
    clone: Any = view.args[0]
    expand: Any = clone.args[0] if clone.target is torch.ops.aten.clone.default else None
    if expand is None or expand.target is not torch.ops.aten.expand.default or len(expand.args[1]) != 6:
        return
    wide: Any = expand.args[0]
    tall: Any = wide.args[0] if _is_unsqueezed(wide, 5) else None
    if tall is None or not _is_unsqueezed(tall, 3):
        return
    pixels, repeated, shape = tall.args[0].meta["val"], view.meta["val"], list(cast("Any", view.args[1]))
    factors = [expand.meta["val"].shape[axis] for axis in (3, 5)]
    if pixels.dtype not in (torch.float16, torch.float32) or repeated.ndim != pixels.ndim:
        return
    if not all(isinstance(factor, int) for factor in factors):
        return
    sizes = (size * factor for size, factor in zip(pixels.shape, (1, 1, *factors), strict=True))
    if not all(statically_known_true(a == b) for a, b in zip(sizes, repeated.shape, strict=True)):
        return
    arguments = (tall.args[0], shape[2:], *map(float, factors))
    with graph.graph.inserting_before(view):
        resized = graph.graph.call_function(torch.ops.aten.upsample_nearest2d.default, arguments)
    resized.meta.update(view.meta)
    view.replace_all_uses_with(resized)


def _is_unsqueezed(node: Any, axis: int) -> bool:
    return node.target is torch.ops.aten.unsqueeze.default and node.args[1] == axis


def _merge_equal_calls(graph: GraphModule) -> None:
    """Use one call for all calls of an operator with equal arguments, unless some operator changes its arguments.

    The graph's results stay apart, since each has a name of its own.
    """
    if not is_functional(graph):
        return
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    kept: dict[Any, Node] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            key: Any = node.target
        elif (
            node.op == "call_function"
            and output not in node.users
            and torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())
        ):
            key = (node.target, _freeze(node.args), _freeze(node.kwargs))
        else:
            continue
        if (equal := kept.setdefault(key, node)) is not node:
            node.replace_all_uses_with(equal)


def _freeze(value: Any) -> Any:
    """A key that is equal for equal arguments of equal types; 0.0 and -0.0 differ."""
    if isinstance(value, (tuple, list)):
        return tuple(map(_freeze, value))
    if isinstance(value, dict):
        return tuple((name, _freeze(item)) for name, item in value.items())
    return type(value), repr(value) if isinstance(value, (float, complex, slice)) else value

"""Simplifying a trace: without the operators that only autograd needs, and with equal calls merged."""

from __future__ import annotations

import operator as python_operator
from typing import Any

import torch
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
from torch.fx import GraphModule, Node

from guidegraph.graph.export.onnx.program import is_functional

DETACHES = (torch.ops.aten.detach.default, torch.ops.aten.detach_.default)
CONTEXTS = (torch._C._set_grad_enabled, _enter_autocast, _exit_autocast)
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
            value = _value_of(product) * size
            product = graph.graph.call_function(python_operator.mul, (product, factor))
            product.meta["val"] = value
    numel.replace_all_uses_with(product)
    graph.graph.erase_node(numel)


def _value_of(size: Any) -> Any:
    return size.meta["val"] if isinstance(size, Node) else size


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
        elif node.op == "call_function" and output not in node.users and not _draws(node):
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


def _draws(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())

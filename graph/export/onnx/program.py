"""From a traced graph to torch's exporter: the operators that it has a form for, and the graph as a program.

The trace applies every decomposition that torch's ONNX exporter would apply afterwards, for which it would trace the
graph again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import GraphModule, Node
from torch.fx.traceback import preserve_node_meta

from guidegraph.graph.export.onnx.decompositions import decompositions
from guidegraph.graph.torch_private import (
    create_onnx_table,
    detect_fake_mode,
    dispatch_get_registrations_for_dispatch_key,
    enable_python_dispatcher,
    get_onnx_implemented_overloads,
    is_preservable_cia_op,
    onnx_exporter,
    onnx_registration,
    type_promotion,
)

if TYPE_CHECKING:
    from guidegraph.graph.torch_private import OpOverload

OPSET = 20


@cache
def onnx_registry() -> onnx_registration.ONNXRegistry:
    """The operators that torch can convert to ONNX."""
    with mock.patch.object(cast("Any", onnx_registration).onnxscript_apis, "get_torchlib_ops", _list_conversions):
        return onnx_registration.ONNXRegistry.from_torchlib(opset_version=OPSET)


def _list_conversions() -> Iterator[SimpleNamespace]:
    """onnxscript's functions by operator, as its own list has them, which parses the source of each for its domain."""
    from onnxscript.function_libs.torch_lib import ops, registration

    del ops  # its import fills the registry
    for name, functions in registration.default_registry.items():
        if name.startswith("internal::"):
            continue
        for is_complex, overloads in ((False, functions.overloads), (True, functions.complex)):
            for function in overloads:
                yield SimpleNamespace(qualified_name=name, function=function, is_complex=is_complex)


@cache
def _torch_decompositions() -> Mapping[OpOverload, Callable[..., Any]]:
    """torch's decompositions of operators that have no ONNX form.

    A trace above autograd also meets composite operators, such as `reshape`, that are not in torch's table.
    """
    convertible = set(get_onnx_implemented_overloads(onnx_registry()))
    table = cast("dict[OpOverload, Callable[..., Any]]", create_onnx_table(convertible))
    for name in dispatch_get_registrations_for_dispatch_key("CompositeImplicitAutograd"):
        namespace, _, qualified = name.partition("::")
        packet, _, overload = qualified.partition(".")
        op = getattr(getattr(getattr(torch.ops, namespace), packet), overload or "default")
        if not (op in convertible and is_preservable_cia_op(op)):
            table.setdefault(op, op.decompose)
    return table


def decomposition_table() -> dict[OpOverload, Callable[..., Any]]:
    """All decompositions for a trace; `attend` and those of `decompositions` come before torch's."""
    by_torch = _torch_decompositions()
    forms = {torch.ops.aten.scaled_dot_product_attention.default: attend, **decompositions()}
    registered = {op: _first(function, by_torch.get(op)) for op, function in forms.items()}
    return {**by_torch, **registered}


def _first(function: Callable[..., Any], otherwise: Callable[..., Any] | None) -> Callable[..., Any]:
    """The function, with another one for arguments for which it returns NotImplemented."""
    if otherwise is None:
        return function

    def decompose(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        return otherwise(*args, **kwargs) if result is NotImplemented else result

    return decompose


def is_functional(graph: GraphModule) -> bool:
    """Whether no operator of a graph changes its arguments."""
    schemas = (getattr(node.target, "_schema", None) for node in graph.graph.nodes if node.op == "call_function")
    return not any(schema is not None and schema.is_mutable for schema in schemas)


class _Decomposed(ExportedProgram):
    """A program whose graph was traced with `decomposition_table`."""


class _CastArguments(type_promotion._TypePromotionInterpreter):
    """torch's insertion of the casts that operators do implicitly, for which it does not run unchanged nodes again."""

    def run_node(self, node: Node) -> Any:
        if node.op != "call_function" or "val" not in node.meta:
            return super().run_node(node)
        with self._set_current_node(node):
            if rule := type_promotion.get_type_promotion_rule(node, self.type_promotion_table):
                self._maybe_promote_node(node, rule)
        return node.meta["val"]


def prepare(program: ExportedProgram) -> ExportedProgram:
    """A program ready for torch's conversion to ONNX: decomposed, and with explicit casts. It is changed in place."""
    if not isinstance(program, _Decomposed):
        return onnx_exporter._prepare_exported_program_for_export(program, registry=onnx_registry())
    graph = program.graph_module
    values = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    fake = detect_fake_mode(values)
    with ExitStack() as stack:
        if fake is not None:  # None for a graph that has no inputs
            stack.enter_context(fake)
        for context in (enable_python_dispatcher(), preserve_node_meta()):
            stack.enter_context(context)
        _CastArguments(graph, type_promotion.TypePromotionTable()).run(*values)
    return program


def make_program(graph: GraphModule) -> ExportedProgram:
    """A functional graph, traced with `decomposition_table`, as a program. Its tensors become constants."""
    nodes = list(graph.graph.nodes)
    user_inputs = [node for node in nodes if node.op == "placeholder"]
    constants = _lift_constants(graph, nodes)
    (output,) = (node for node in nodes if node.op == "output")
    results = [cast("Node", result) for result in output.args[0]]
    signature = ExportGraphSignature(
        [
            *(InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(name), name) for name in constants),
            *(InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None) for node in user_inputs),
        ],
        [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in results],
    )
    return _Decomposed(
        root=torch.nn.Module(),
        graph=graph.graph,
        graph_signature=signature,
        state_dict={},
        range_constraints={},
        module_call_graph=[],
        constants=dict(constants),
    )


def _lift_constants(graph: GraphModule, nodes: list[Node]) -> dict[str, torch.Tensor]:
    """Replace the graph's tensors by placeholders before its inputs. Returns the tensors by placeholder."""
    placeholders: dict[str, Node] = {}
    constants: dict[str, torch.Tensor] = {}
    for node in [node for node in nodes if node.op == "get_attr"]:
        target = str(node.target)
        if target not in placeholders:
            tensor = getattr(graph, target)
            with graph.graph.inserting_before(nodes[0]):
                placeholders[target] = graph.graph.placeholder(f"constant_{target.strip('_')}")
            placeholders[target].meta["val"] = tensor
            constants[placeholders[target].name] = tensor.detach()
        node.replace_all_uses_with(placeholders[target])
        graph.graph.erase_node(node)
    return constants


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    multiply: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
) -> Any:
    """softmax(QKᵀ/√d + mask) V; zero for a query whose keys are all hidden, as in torch's kernels.

    query: (..., N, d), key: (..., M, d), value: (..., M, e), attn_mask: broadcastable to (..., N, M), True for the keys
    that count, or added to the scores. multiply: of matrices; torch.matmul broadcasts the axes before theirs, and
    torch.bmm takes fewer operators where there is one that is equal in all. Returns (..., N, e). NotImplemented for
    other options, which torch converts.
    """
    if dropout_p or is_causal or enable_gqa:
        return NotImplemented
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    products = multiply(query * scale, key.transpose(-2, -1))
    if attn_mask is None:
        return multiply(torch.softmax(products, -1), value)
    bias, counts = _make_bias(torch.atleast_2d(attn_mask), products.dtype)
    if attn_mask.dtype == torch.float16:
        products = products.float()  # the sum of a score and the lowest float16 can be -inf
    weights = torch.softmax(products + bias, -1).to(value.dtype)
    is_same_for_queries = isinstance(counts.shape[-2], int) and counts.shape[-2] == 1
    if is_same_for_queries and counts.ndim == value.ndim:
        return multiply(weights, value * counts)
    return multiply(weights, value) * counts


def _make_bias(attn_mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A number that is added to each product, and 1 for queries (..., N, 1) that have a key, 0 for others.

    The products of a query without a key stay as they are, so that its weights have no NaN.
    """
    if attn_mask.dtype == torch.bool:
        counts = attn_mask.any(-1, keepdim=True)
        return torch.where(attn_mask | ~counts, 0.0, -torch.inf).to(dtype), counts.to(dtype)
    counts = (attn_mask != -torch.inf).any(-1, keepdim=True)
    return torch.where(counts, attn_mask, torch.zeros_like(attn_mask)), counts.to(dtype)

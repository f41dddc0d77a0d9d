"""Tracing functions, also those that compute a gradient inside, into graphs of forward operators.

torch.export does not support `torch.autograd.grad`. Tracing below autograd does: the backward pass is then a sequence
of ordinary operators. Operators that ONNX lacks are replaced by their decompositions in the same trace.
"""

from __future__ import annotations

import operator as python_operator
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast
from unittest import mock

import sympy
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.traceback import preserve_node_meta
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from guidegraph.graph.export.errors import FixedSizeError
from guidegraph.graph.export.onnx.axes import Axis
from guidegraph.graph.export.onnx.fake_sizes import ShortFakes
from guidegraph.graph.export.onnx.program import attend, decomposition_table, is_functional
from guidegraph.graph.export.user_frame import user_frame
from guidegraph.graph.torch_private import (
    ConstantSource,
    DimDynamic,
    ShapeEnv,
    SLoc,
    StrictMinMaxConstraint,
    TorchDispatchMode,
    ValueRanges,
    are_functorch_transforms_active,
    current_graph_task_id,
    enable_python_dispatcher,
    enter_autocast,
    exit_autocast,
    is_any_autocast_enabled,
    make_fx,
    proxy_tensor,
    set_grad_enabled,
    statically_known_true,
)

Function = Callable[..., Any]

MACHINERY = (
    "torch",
    "torch._compile",
    "torch._dynamo.eval_frame",
    "torch._library.custom_ops",
    "torch._library.fake_impl",
    "torch._subclasses.fake_tensor",
    "torch._subclasses.meta_utils",
    "torch.fx._symbolic_trace",
    "torch.fx.experimental.recording",
    "torch.fx.experimental.sym_node",
    "torch.fx.experimental.symbolic_shapes",
    "torch.fx.interpreter",
)
"""Modules of torch that ask about sizes for the code that called them."""


@dataclass
class Probe(TorchDispatchMode):
    """Observes a run of a function: whether it computes a gradient, and its random operators with their location.

    transforms: whether autocast or a transform of `torch.func` changes what its operators do.
    """

    gradient: bool = False
    transforms: bool = False
    random: dict[str, str] = field(default_factory=dict)
    operator: str = ""
    place: str = ""

    def __post_init__(self) -> None:
        TorchDispatchMode.__init__(self)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if current_graph_task_id() != -1:  # autograd's engine is running
            self.gradient = True
        operator = operator_name(func)
        if torch.Tag.nondeterministic_seeded in func.tags and "scaled_dot_product" not in operator:
            self.random.setdefault(operator, user_frame(traceback.extract_stack()))
        if operator == self.operator and not self.place:
            self.place = user_frame(traceback.extract_stack())
        return func(*args, **(kwargs or {}))


class _TransformProbe(TorchFunctionMode):
    """Observes whether functions of torch are called while autocast is on or in a transform such as `torch.vmap`."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen |= is_any_autocast_enabled() or are_functorch_transforms_active()
        return func(*args, **(kwargs or {}))


def operator_name(op: Any) -> str:
    """`aten.silu_backward` for torch.ops.aten.silu_backward.default."""
    return str(getattr(op, "overloadpacket", op))


def probe(function: Function, inputs: Sequence[Tensor], operator: str = "") -> tuple[Any, Probe]:
    """The function's result for the inputs, and the probe. operator: the name of one whose location is recorded."""
    watcher = Probe(operator=operator)
    with torch.no_grad(), watcher, _TransformProbe() as transforms:
        result = function(*inputs)
    watcher.transforms = transforms.seen
    return result, watcher


def trace_forward(
    function: Function,
    inputs: Sequence[Tensor],
    axes: Sequence[Mapping[int, Axis]],
    sizes: Mapping[str, int],
    below_autograd: bool = True,
    table: Mapping[Any, Function] | None = None,
) -> GraphModule:
    """The function as a graph of forward operators over flat tensors, for all sizes that the axes allow.

    sizes: of each axis while tracing, two or more of its units. below_autograd: whether gradients, casts of autocast
    and transforms such as `torch.vmap` become operators; else operators such as attention stay whole. table: of
    decompositions; by default all that the conversion to ONNX needs. Raises ``ExportError`` if the function fixes the
    size of an axis or branches on it. Errors of the function itself are passed on.
    """
    env = _RecordingShapeEnv(duck_shape=False)
    fake = ShortFakes(shape_env=env, allow_non_fake_inputs=True)
    symbols = {axis.name: _make_symbol(env, axis, sizes[axis.name]) for dynamic in axes for axis in dynamic.values()}
    with ExitStack() as stack:
        # Nodes get no "tensor_meta", for which torch compares all strides with those of three formats.
        formats = mock.patch.object(proxy_tensor, "_extract_tensor_metadata", _skip_metadata, create=True)
        for context in (torch.no_grad(), enable_python_dispatcher(), fake, preserve_node_meta(), formats):
            stack.enter_context(context)
        if below_autograd:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(ShortGradients())
        fakes = []
        for tensor, dynamic in zip(inputs, axes, strict=True):
            shape = [
                dynamic[i].multiple_of * symbols[dynamic[i].name] if i in dynamic else int(size)
                for i, size in enumerate(tensor.shape)
            ]
            fakes.append(torch.empty(shape, dtype=tensor.dtype, device=tensor.device))
        table = decomposition_table() if table is None else table
        graph = make_fx(function, decomposition_table=dict(table), pre_dispatch=not below_autograd)(*fakes)
    _check_sizes(env, symbols)
    return simplify(graph)


def _skip_metadata(tensor: Tensor) -> None:
    pass


class ShortGradients(TorchFunctionMode):
    """Replaces two functions by forms with simpler gradients: torch's index pixels and guard every softmax."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        forms: dict[Any, Function] = {F.interpolate: _nearest, F.scaled_dot_product_attention: _attention}
        out = forms[func](*args, **(kwargs or {})) if func in forms else NotImplemented
        return func(*args, **(kwargs or {})) if out is NotImplemented else out


def _nearest(
    x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *args: Any, **kwargs: Any
) -> Any:
    """Nearest-neighbour upsampling by integer factors; NotImplemented for anything else."""
    factors = scale_factor if isinstance(scale_factor, Sequence) else (scale_factor, scale_factor)
    if mode != "nearest" or x.ndim != 4 or any(factor is None or factor != int(factor) for factor in factors):
        return NotImplemented
    (tall, wide), (batch, channels, height, width) = map(int, factors), x.shape
    repeated = x[:, :, :, None, :, None].expand(batch, channels, height, tall, width, wide)
    return repeated.reshape(batch, channels, height * tall, width * wide)


def _attention(query: Tensor, key: Tensor, value: Tensor, *options: Any, **by_name: Any) -> Any:
    """Attention without a mask and with equal leading axes on three axes, for batched products; any other as it is.

    NotImplemented for options that ``attend`` leaves to torch.
    """
    leading, attn_mask = query.shape[:-2], options[0] if options else by_name.get("attn_mask")
    if attn_mask is not None or not leading or not all(_equal_sizes(leading, x.shape[:-2]) for x in (key, value)):
        return attend(query, key, value, *options, **by_name)
    query, key, value = (tensor.flatten(0, -3) for tensor in (query, key, value))
    attended = attend(query, key, value, *options, multiply=torch.bmm, **by_name)
    return attended if attended is NotImplemented else attended.unflatten(0, leading)


def _equal_sizes(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Whether shapes are equal for all sizes of the free axes."""
    return len(left) == len(right) and all(map(statically_known_true, map(python_operator.eq, left, right)))


def _make_symbol(env: ShapeEnv, axis: Axis, size: int) -> Any:
    """A new symbol for the number of units of an axis, so that axes of equal size are not merged."""
    units = size // axis.multiple_of
    bounds = ValueRanges(max(axis.units[0], 2), axis.units[1])
    source = ConstantSource(axis.name)
    expression = env.create_symbol(
        units, source, DimDynamic.DYNAMIC, StrictMinMaxConstraint(vr=bounds, warn_only=False)
    )
    return env.create_symintnode(expression, hint=units, source=source)


class _RecordingShapeEnv(ShapeEnv):
    """A shape environment that records the stack at which each guard was added."""

    def __init__(self, *, duck_shape: bool) -> None:
        super().__init__(duck_shape=duck_shape)
        self.guard_stacks: dict[int, traceback.StackSummary] = {}

    def _get_stack_summary(self, *args: Any, **kwargs: Any) -> tuple[SLoc, str]:
        """No location, which torch would look up for its own log, importing its compiler for that."""
        return SLoc(None, None), ""

    def evaluate_expr(self, *args: Any, **kwargs: Any) -> Any:
        guard_count = len(self.guards)
        value = super().evaluate_expr(*args, **kwargs)
        if len(self.guards) > guard_count:
            self.guard_stacks[guard_count] = traceback.extract_stack()
        return value


def _check_sizes(env: _RecordingShapeEnv, symbols: Mapping[str, Any]) -> None:
    """Raise ``FixedSizeError`` for guards that fix a size or come from user code; torch's own change no result."""
    names = {symbol.node._expr: sympy.Symbol(name) for name, symbol in symbols.items()}
    machinery = {sys.modules[name].__file__ for name in MACHINERY if name in sys.modules} | {"<string>", __file__}
    for index, guard in enumerate(env.guards):
        asker = [frame for frame in env.guard_stacks.get(index, ()) if frame.filename not in machinery]
        if isinstance(guard.expr, sympy.Eq) or user_frame(asker[-1:]):
            raise FixedSizeError(str(guard.expr.subs(names)), user_frame(asker))


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

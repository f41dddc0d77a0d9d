"""Every private name of torch that guidegraph uses, imported when it is first asked for.

A release of torch may move or drop any of them. `NAMES` says where each is and why it is needed; a test asks for each,
so that a new version of torch fails there and not in somebody's export.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch._C import (
        _are_functorch_transforms_active,
        _current_graph_task_id,
        _disabled_torch_function_impl,
        _dispatch_get_registrations_for_dispatch_key,
        _is_any_autocast_enabled,
        _set_grad_enabled,
    )
    from torch._dispatch.python import enable_python_dispatcher as enable_python_dispatcher
    from torch._dynamo.source import ConstantSource as ConstantSource
    from torch._export.utils import _is_preservable_cia_op
    from torch._functorch import config
    from torch._guards import SLoc as SLoc
    from torch._guards import detect_fake_mode as detect_fake_mode
    from torch._ops import OpOverload as OpOverload
    from torch._ops import OpOverloadPacket as OpOverloadPacket
    from torch._subclasses.fake_impls import fast_detach as fast_detach
    from torch._subclasses.fake_tensor import FakeTensor as FakeTensor
    from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
    from torch.amp.autocast_mode import _enter_autocast, _exit_autocast
    from torch.cpu import _is_amx_tile_supported, _is_avx512_bf16_supported, _is_avx512_supported
    from torch.fx.experimental import proxy_tensor as proxy_tensor
    from torch.fx.experimental.proxy_tensor import make_fx as make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic as DimDynamic
    from torch.fx.experimental.symbolic_shapes import ShapeEnv as ShapeEnv
    from torch.fx.experimental.symbolic_shapes import StrictMinMaxConstraint as StrictMinMaxConstraint
    from torch.fx.experimental.symbolic_shapes import statically_known_true as statically_known_true
    from torch.onnx._internal.exporter import _core, _registration
    from torch.onnx._internal.exporter._decomp import create_onnx_friendly_decomposition_table
    from torch.onnx._internal.exporter._decomp import get_onnx_implemented_overloads as get_onnx_implemented_overloads
    from torch.onnx._internal.fx.passes import type_promotion as type_promotion
    from torch.utils import _pytree
    from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
    from torch.utils._python_dispatch import _disable_current_modes
    from torch.utils._sympy.value_ranges import ValueRanges as ValueRanges

    are_functorch_transforms_active = _are_functorch_transforms_active
    current_graph_task_id = _current_graph_task_id
    disabled_torch_function_impl = _disabled_torch_function_impl
    dispatch_get_registrations_for_dispatch_key = _dispatch_get_registrations_for_dispatch_key
    is_any_autocast_enabled = _is_any_autocast_enabled
    set_grad_enabled = _set_grad_enabled
    is_amx_tile_supported = _is_amx_tile_supported
    is_avx512_bf16_supported = _is_avx512_bf16_supported
    is_avx512_supported = _is_avx512_supported
    enter_autocast = _enter_autocast
    exit_autocast = _exit_autocast
    is_preservable_cia_op = _is_preservable_cia_op
    disable_current_modes = _disable_current_modes
    onnx_exporter = _core
    onnx_registration = _registration
    pytree = _pytree
    functorch_config = config
    create_onnx_table = create_onnx_friendly_decomposition_table


class PrivateName(NamedTuple):
    """A name of torch: its module, the name there ("" for the module itself), and the use that breaks without it."""

    module: str
    name: str
    use: str


_C = "torch._C"
_SHAPES = "torch.fx.experimental.symbolic_shapes"

NAMES = {
    "are_functorch_transforms_active": PrivateName(
        _C, "_are_functorch_transforms_active", "export and acceleration refuse a part in torch.vmap or torch.func.grad"
    ),
    "current_graph_task_id": PrivateName(
        _C, "_current_graph_task_id", "export finds out that a part computes a gradient"
    ),
    "disabled_torch_function_impl": PrivateName(
        _C, "_disabled_torch_function_impl", "quantised weights of a file stay unread until a layer takes them"
    ),
    "dispatch_get_registrations_for_dispatch_key": PrivateName(
        _C, "_dispatch_get_registrations_for_dispatch_key", "export decomposes composite operators such as reshape"
    ),
    "is_any_autocast_enabled": PrivateName(_C, "_is_any_autocast_enabled", "export sees autocast inside a part"),
    "set_grad_enabled": PrivateName(_C, "_set_grad_enabled", "export drops torch.no_grad from a trace"),
    "enable_python_dispatcher": PrivateName(
        "torch._dispatch.python", "enable_python_dispatcher", "export traces composite operators with free sizes"
    ),
    "ConstantSource": PrivateName("torch._dynamo.source", "ConstantSource", "export names its free sizes"),
    "is_preservable_cia_op": PrivateName(
        "torch._export.utils", "_is_preservable_cia_op", "export keeps composite operators that ONNX has"
    ),
    "functorch_config": PrivateName(
        "torch._functorch.config", "", "a compiled training takes the gradients of several losses"
    ),
    "SLoc": PrivateName("torch._guards", "SLoc", "export says which line of a node fixes a size"),
    "detect_fake_mode": PrivateName("torch._guards", "detect_fake_mode", "export reads the sizes of a trace"),
    "OpOverload": PrivateName("torch._ops", "OpOverload", "the table of decompositions is keyed by operators"),
    "OpOverloadPacket": PrivateName(
        "torch._ops", "OpOverloadPacket", "a decomposition is registered for all overloads of an operator"
    ),
    "fast_detach": PrivateName("torch._subclasses.fake_impls", "fast_detach", "a trace detaches tensors without data"),
    "FakeTensor": PrivateName(
        "torch._subclasses.fake_tensor", "FakeTensor", "export follows which samples mix, on tensors without data"
    ),
    "FakeTensorMode": PrivateName(
        "torch._subclasses.fake_tensor", "FakeTensorMode", "export and the plugin checks run nodes without data"
    ),
    "enter_autocast": PrivateName("torch.amp.autocast_mode", "_enter_autocast", "export drops autocast from a trace"),
    "exit_autocast": PrivateName("torch.amp.autocast_mode", "_exit_autocast", "export drops autocast from a trace"),
    "is_amx_tile_supported": PrivateName("torch.cpu", "_is_amx_tile_supported", "the run's dtype suits the processor"),
    "is_avx512_bf16_supported": PrivateName(
        "torch.cpu", "_is_avx512_bf16_supported", "the run's dtype suits the processor"
    ),
    "is_avx512_supported": PrivateName("torch.cpu", "_is_avx512_supported", "the run's dtype suits the processor"),
    "proxy_tensor": PrivateName("torch.fx.experimental.proxy_tensor", "", "export traces below autograd"),
    "make_fx": PrivateName("torch.fx.experimental.proxy_tensor", "make_fx", "export traces below autograd"),
    "DimDynamic": PrivateName(_SHAPES, "DimDynamic", "export keeps sizes free"),
    "ShapeEnv": PrivateName(_SHAPES, "ShapeEnv", "export keeps sizes free"),
    "StrictMinMaxConstraint": PrivateName(_SHAPES, "StrictMinMaxConstraint", "export bounds a free size"),
    "statically_known_true": PrivateName(_SHAPES, "statically_known_true", "export compares sizes without fixing them"),
    "onnx_exporter": PrivateName("torch.onnx._internal.exporter._core", "", "a trace becomes an ONNX model"),
    "onnx_registration": PrivateName(
        "torch.onnx._internal.exporter._registration", "", "export lists the operators that ONNX has"
    ),
    "create_onnx_table": PrivateName(
        "torch.onnx._internal.exporter._decomp",
        "create_onnx_friendly_decomposition_table",
        "a trace is decomposed once, in export",
    ),
    "get_onnx_implemented_overloads": PrivateName(
        "torch.onnx._internal.exporter._decomp",
        "get_onnx_implemented_overloads",
        "export lists the operators that ONNX has",
    ),
    "type_promotion": PrivateName(
        "torch.onnx._internal.fx.passes.type_promotion", "", "operands of mixed dtypes are cast as ONNX demands"
    ),
    "pytree": PrivateName("torch.utils._pytree", "", "values are taken apart into tensors and put together again"),
    "TorchDispatchMode": PrivateName(
        "torch.utils._python_dispatch", "TorchDispatchMode", "export observes each operator of a part"
    ),
    "disable_current_modes": PrivateName(
        "torch.utils._python_dispatch", "_disable_current_modes", "bits of samples are computed while a part is traced"
    ),
    "ValueRanges": PrivateName("torch.utils._sympy.value_ranges", "ValueRanges", "export bounds a free size"),
}


def __getattr__(name: str) -> Any:
    """Import the private name. Raises ``AttributeError`` for a name that is not in `NAMES`."""
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = NAMES[name]
    module = import_module(place.module)
    value = getattr(module, place.name) if place.name else module
    globals()[name] = value
    return value

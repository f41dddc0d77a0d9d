"""Which checks apply to a node, decided by its declaration alone: no value is made, and torch is not imported."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal, TypeAlias

from guidegraph.graph.node import NodeSpec
from guidegraph.graph.port import Port, port_kinds
from guidegraph.graph.types import PortType, SequenceOf, Tensor, structured_types, to_port_type
from guidegraph.nodes.types import (
    Denoiser,
    Levels,
    Prediction,
    Schedule,
    Scheduler,
    SchedulerState,
    Score,
    Timesteps,
)
from guidegraph_testing import simulated_cuda
from guidegraph_testing.case import NodeCase
from guidegraph_testing.catalogue import CHECKS

Content: TypeAlias = Literal["tensor", "float", "batch", "model", "list", "text"]
"""The contents of a value: tensor, float tensor, tensor with a batch axis, model, list or dictionary, texts."""

ANYTHING: frozenset[Content] = frozenset(("tensor", "float", "batch", "model", "list", "text"))


def applicable_checks(case: NodeCase, names: Collection[str] = tuple(CHECKS)) -> list[str]:
    """The checks among `names` that may apply to a node, in the order of `names`."""
    return [name for name in names if why_inapplicable(case, name) is None]


def why_inapplicable(case: NodeCase, name: str) -> str | None:
    """Why a check does not apply to a node; None if it applies, or if only a run can tell.

    name: one of `CHECKS`.
    """
    if name in case.skip:
        return f"by design: {case.skip[name]}"
    rule = _RULES.get(name)
    return rule(case) if rule is not None else None


def why_untraceable(spec: NodeSpec) -> str | None:
    """Why a node cannot be traced with tensors; None if it can, or if only a call can tell."""
    if spec.host:
        return "it runs on the host (host=True)"
    if spec.io:
        return "it waits for disk or network (io=True)"
    if reason := _why_impure(spec):
        return reason
    if not spec.outputs:
        return "it gives nothing"
    if any("model" in port_kinds(port) for port in spec.outputs.values()):
        return "it gives a model"
    return None


def _why_impure(spec: NodeSpec) -> str | None:
    return None if spec.pure else "it has effects, or randomness without a seed (pure=False)"


def _types(case: NodeCase) -> str | None:
    has_default = any(not port.required for port in case.spec.ports.values())
    return None if case.spec.outputs or has_default else "it gives nothing, and has no defaults"


def _shapes(case: NodeCase) -> str | None:
    if "tensor" not in _input_contents(case):
        return "no input is a tensor"
    return None if "tensor" in _output_contents(case.spec) else "no output is a tensor"


def _dtypes(case: NodeCase) -> str | None:
    own_dtype = (Levels, Schedule, Scheduler, Timesteps)
    outputs = [port for port in case.spec.outputs.values() if not set(own_dtype) & set(port.alternatives)]
    has_floats = any("float" in possible_contents(port) for port in outputs)
    return None if has_floats else "no output is a tensor of floats in the dtype of a run"


def _batch_invariance(case: NodeCase) -> str | None:
    if not _input_contents(case) & {"batch", "text"}:
        return "no input has a batch axis"
    return None if "batch" in _output_contents(case.spec) else "no output has a batch axis"


def _inputs_unchanged(case: NodeCase) -> str | None:
    mutable = _input_contents(case) & {"tensor", "model", "list", "text"}
    return None if mutable else "it has no arguments that could be changed in place"


def _waits(case: NodeCase) -> str | None:
    if not simulated_cuda.is_loaded():
        return "no device counts them (pytest --guidegraph-plugin … --device sim does)"
    if reason := why_untraceable(case.spec):
        return reason
    of_a_step = {Denoiser, Prediction, SchedulerState, Score, Timesteps}
    is_in_loop = any(not of_a_step.isdisjoint(port.type.alternatives) for port in case.spec.inputs.values())
    return None if is_in_loop else "it takes nothing of a step: no denoiser, prediction, score, time or state"


def _gradients(case: NodeCase) -> str | None:
    if reason := why_untraceable(case.spec):
        return reason
    no_gradient = {Levels, Schedule, Scheduler, Timesteps}
    inputs = [port for port in _ports_with_values(case) if not port.setting]
    ports = [p for p in inputs if not no_gradient & set(p.type.alternatives) and "float" in possible_contents(p.type)]
    if not ports:
        return "no input is a tensor of floats"
    if all(port.name in case.detached for port in ports):
        return "; ".join(f"'{name}' is detached by design: {reason}" for name, reason in case.detached.items())
    return None if "float" in _output_contents(case.spec) else "no output is a tensor of floats"


def list_plugin_types(plugin: object) -> list[type]:
    """The port types of a plugin."""
    hook = getattr(plugin, "guidegraph_types", None)
    return [] if hook is None else [*hook()]


def _previews(case: NodeCase) -> str | None:
    if not hasattr(case.plugin, "guidegraph_preview"):
        return "its plugin has no hook guidegraph_preview"
    own = {*list_plugin_types(case.plugin)}
    is_own = any(not own.isdisjoint(port.alternatives) for port in case.spec.outputs.values())
    return None if is_own else "no output has a type of its plugin"


def _onnx_export(case: NodeCase) -> str | None:
    if reason := why_untraceable(case.spec):
        return reason
    if "tensor" not in _input_contents(case):
        return "no input is a tensor: what it gives is the same in every run"
    if case.spec.runtime:
        return "the runtime has an operation that does the same (runtime=True)"
    if any("tensor" not in possible_contents(port) for port in case.spec.outputs.values()):
        return "an output may be no tensor: inside of a step alone the node is in a graph"
    return None


_RULES: Mapping[str, Callable[[NodeCase], str | None]] = {
    "types": _types,
    "shapes": _shapes,
    "dtypes": _dtypes,
    "batch invariance": _batch_invariance,
    "determinism": lambda case: _why_impure(case.spec),
    "inputs unchanged": _inputs_unchanged,
    "device independence": lambda case: why_untraceable(case.spec),
    "waits": _waits,
    "gradients": _gradients,
    "identity": lambda case: None if case.spec.identity is not None else "it declares no identity",
    "needs": lambda case: None if case.spec.needs is not None else "it declares no needs",
    "previews": _previews,
    "ONNX export": _onnx_export,
}
"""The rule of each check; a check without one, such as that of docs, always applies."""


def possible_contents(kind: PortType) -> frozenset[Content]:
    """The possible contents of values of a port type."""
    return frozenset[Content]().union(*(_alternative_contents(alternative) for alternative in kind.alternatives))


def _alternative_contents(kind: type | SequenceOf) -> frozenset[Content]:
    contents: frozenset[Content]
    if isinstance(kind, SequenceOf):
        contents = possible_contents(kind.element)
        return contents | {"list"} if str not in kind.element.alternatives else contents | {"list", "text"}
    if kind in (object, list, dict, tuple):
        return ANYTHING
    if Tensor in kind.__mro__:
        tensor: Any = kind
        contents = frozenset(("tensor",)) if tensor.integer else frozenset(("tensor", "float"))
        return contents | {"batch"} if tensor.axes is None or "B" in tensor.axes else contents
    if kind in structured_types().values():
        axes: Mapping[str, Any] = getattr(kind, "leaf_axes", {})
        hints = typing.get_type_hints(kind, include_extras=True)
        contents = frozenset()
        for name in (field.name for field in dataclasses.fields(kind)):
            if name not in axes:
                port = to_port_type(hints[name])
                if Mapping in port.alternatives:  # of tensors, as the more fields of a condition are
                    contents |= {"tensor", "float"}
                else:
                    contents |= possible_contents(port)
                continue
            contents |= {"tensor", "float"}  # a field with declared axes is a tensor
            contents |= {"batch"} if "B" in axes[name] else frozenset()
        return contents
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind, include_extras=True)
        return frozenset[Content]().union(
            *(possible_contents(to_port_type(hints.get(name, Any))) for name in kind._fields)
        )
    return frozenset(("model",)) if port_kinds(PortType((kind,))) & {"model", "unknown"} else frozenset()


def _ports_with_values(case: NodeCase) -> Iterator[Port]:
    """The ports and settings that get a value: required ones (an example), and those that the case gives."""
    yield from (port for name, port in case.spec.inputs.items() if port.required or name in case.inputs)
    yield from (port for name, port in case.spec.settings.items() if port.required or name in case.settings)


def _input_contents(case: NodeCase) -> frozenset[Content]:
    """Contents of the values that it gets. A number or text that the case gives says more than the type."""
    contents: frozenset[Content] = frozenset()
    for port in _ports_with_values(case):
        value = case.settings.get(port.name, case.inputs.get(port.name))
        contents |= frozenset() if isinstance(value, (bool, int, float, str)) else possible_contents(port.type)
    return contents


def _output_contents(spec: NodeSpec) -> frozenset[Content]:
    return frozenset[Content]().union(*(possible_contents(port) for port in spec.outputs.values()))

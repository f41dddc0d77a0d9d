"""Nodes of the runtime's operations: ports, settings, defaults and docstring come from the operation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from annotated_types import MaxLen

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.late import torch
from guidegraph.graph.node import NodeDefinitionError, node
from guidegraph.graph.types import Tensor, is_tensor_class
from guidegraph.nodes import types
from guidegraph_runtime.declare.operation import ShapeRule
from guidegraph_runtime.declare.settings import AtMost, Kind, kind_of
from guidegraph_runtime.operations import OPERATIONS, HostOperation

R = TypeVar("R")

PICTURES = ("Image", "Mask", "SemanticMap")
"""Kinds whose values have the dtype of the run; tables, times and labels keep the operation's dtype."""


def node_from_operation(
    id: str, module: str, *, name: str = "", outputs: Any = None, **traits: Any
) -> Callable[..., Any]:
    """Make the node of an operation, which computes in NumPy; tensors in the result are on the device of the run.

    module: the module of nodes that it belongs to. name: its name there, by default that in the id. outputs: the
    ``NamedTuple`` of several outputs; by default one like the operation's. traits: as for ``@node``; a node that
    reads a file is `io` and `host`, and its shape is the operation's if that depends on settings alone.
    """
    operation = OPERATIONS[id]
    signature, hints = operation.signature, _output_hints(operation)
    returned = outputs or _outputs_of(operation)

    def compute(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        results = operation(**{name: to_runtime(value) for name, value in arguments.items()})
        values = {name: to_engine(results[name], hint) for name, hint in hints.items()}
        return values["out"] if [*values] == ["out"] else returned(**values)

    compute.__module__, compute.__name__ = module, name or id.partition(".")[2]
    compute.__qualname__ = compute.__name__
    compute.__wrapped__ = operation.function  # type: ignore[attr-defined]
    return _register(operation, compute, returned, traits)


def node_for(id: str, **traits: Any) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Make a function the node of an operation that computes something else, or elsewhere, in torch.

    The function has the operation's ports and settings by name; their types and defaults, and its docstring, are set
    here. traits: as for ``@node``. Raises ``NodeDefinitionError`` for other parameters than the operation's.
    """

    def register(body: Callable[..., R]) -> Callable[..., R]:
        operation: Any = OPERATIONS[id]
        parameters = operation.signature.parameters.values()
        actual = [(p.name, p.kind) for p in inspect.signature(body).parameters.values()]
        if actual != [(p.name, p.kind) for p in parameters]:
            names = ", ".join(p.name for p in parameters)
            raise NodeDefinitionError(f"{id}: expected the operation's parameters, {names}; found {actual}")
        optional = [p for p in parameters if p.default is not p.empty]
        function: Any = body
        function.__defaults__ = tuple(p.default for p in optional if p.kind is not p.KEYWORD_ONLY)
        function.__kwdefaults__ = {p.name: p.default for p in optional if p.kind is p.KEYWORD_ONLY}
        return _register(operation, body, _outputs_of(operation), traits)

    return register


def define_nodes(
    module: dict[str, Any], namespace: str, versions: Mapping[str, int] = MappingProxyType({}), **options: Any
) -> None:
    """Define the nodes of a namespace's operations in a module, under the names in their ids.

    module: its ``globals()``. versions: versions above 1, by name. options: as for `node_from_operation`.
    """
    for id in OPERATIONS:
        if id.startswith(f"{namespace}."):
            name = id.partition(".")[2]
            module[name] = node_from_operation(id, module["__name__"], version=versions.get(name, 1), **options)


def to_runtime(value: Any) -> Any:
    """A value of a port for an operation: tensors as arrays, structured values as their fields, sequences as lists."""
    kind: Any = type(value)
    if is_tensor_class(kind):
        return (value.double() if value.is_floating_point() else value).cpu().numpy()
    if is_dataclass(value):
        return {name: to_runtime(field) for name, field in vars(value).items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [to_runtime(item) for item in value]
    return value


def to_engine(value: Any, hint: Any) -> Any:
    """A result of an operation for a port: arrays as tensors on the device of the run, fields as structured values."""
    kind = None if hint is None else kind_of(hint)
    if kind is not None and isinstance(value, Mapping):
        return getattr(types, kind)(**{name: to_engine(field, None) for name, field in value.items()})
    if not isinstance(value, np.ndarray):
        return value
    tensor = torch.from_numpy(value)
    return tensor.to(current_device(), current_dtype() if kind in PICTURES else tensor.dtype)


def to_annotation(hint: Any) -> Any:
    """The annotation of a node's port or setting, from an operation's annotation: kinds become port types."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for mark in arguments[1:]:
            if isinstance(mark, Kind):
                return Path if mark.name == "Path" else getattr(types, mark.name)
            if isinstance(mark, AtMost):
                return Annotated[arguments[0], MaxLen(mark.count)]
        return hint
    if origin in (Union, UnionType):
        return Union[tuple(map(to_annotation, arguments))]  # noqa: UP007 - from a tuple
    if origin is Sequence:
        return Sequence[tuple(map(to_annotation, arguments))]  # type: ignore[misc]
    return hint


def _register(
    operation: HostOperation, function: Callable[..., Any], returned: Any, traits: Mapping[str, Any]
) -> Callable[..., Any]:
    parameters = operation.signature.parameters.values()
    hints: dict[str, Any] = {}
    typed: list[inspect.Parameter] = []
    settings: set[str] = set()
    reads_file = False
    for parameter in parameters:
        hint = operation.hints[parameter.name]
        hints[parameter.name] = hint = hint if isinstance(hint, type) else to_annotation(hint)
        typed.append(parameter.replace(annotation=hint))
        if parameter.kind is parameter.KEYWORD_ONLY:
            settings.add(parameter.name)
            reads_file = reads_file or hint is Path or Path in get_args(hint)
    function.__doc__, function.__annotations__ = operation.function.__doc__, hints | {"return": returned}
    function.__signature__ = inspect.Signature(typed, return_annotation=returned)  # type: ignore[attr-defined]
    implied: dict[str, Any] = {"io": reads_file, "host": reads_file}
    if operation.shape is not None and settings >= {*inspect.signature(operation.shape).parameters}:
        implied["shape"] = _leading_axes(operation.shape) if _is_tensor_type(returned) else None
    register = node(operation.id, runtime=True, **{**implied, **traits})
    return register(function)


def _output_hints(operation: HostOperation) -> dict[str, Any]:
    """The annotations of an operation's outputs by name."""
    returned = operation.hints["return"]
    if isinstance(returned, type) and issubclass(returned, tuple):
        return get_type_hints(returned, include_extras=True)
    return {"out": returned}


@cache
def _outputs_of(operation: HostOperation) -> Any:
    """The return annotation of an operation's node: a ``NamedTuple`` for several outputs."""
    hints = {name: to_annotation(hint) for name, hint in _output_hints(operation).items()}
    return hints["out"] if [*hints] == ["out"] else NamedTuple(operation.hints["return"].__name__, [*hints.items()])


def _is_tensor_type(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Tensor)


def _leading_axes(rule: ShapeRule) -> Callable[..., tuple[int, ...]]:
    """A rule for the axes of a shape that precede the first unknown one."""

    def shape(**arguments: Any) -> tuple[int, ...]:
        sides: Sequence[int | None] = rule(**arguments) or ()
        return tuple(side for side in takewhile(lambda side: side is not None, sides) if side is not None)

    shape.__signature__ = inspect.signature(rule)  # type: ignore[attr-defined]
    return shape

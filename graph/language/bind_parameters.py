"""Binding of parameters: values are checked and converted, and all problems raised in one error."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from guidegraph.graph.errors import Mark, Problem, WorkflowError, suggest
from guidegraph.graph.ir import Call, Graph, Loop, Op, Parameter, walk
from guidegraph.graph.language.yaml_tree import Scalar, find_repeated_keys, read_tree, shorten, to_python
from guidegraph.graph.late import torch
from guidegraph.graph.literals import convert_literal, is_plain_data
from guidegraph.graph.origins import Origins, list_origins, list_parameter_ports, trace_origins
from guidegraph.graph.port import Port
from guidegraph.graph.sources import Param, list_parameters
from guidegraph.graph.trust.limits import find_trip_problems
from guidegraph.graph.types import (
    PortType,
    Tensor,
    describe_value,
    explain_mismatch,
    is_iterable,
    is_tensor,
    takes_literal,
)
from guidegraph.graph.values.ownership import copy_value

INFINITE = "expected finite numbers; found infinities"


def bind(graph: Graph, arguments: Mapping[str, object], *, text: bool = False, label: str = "params") -> dict[str, Any]:
    """Values of all parameters by name: those in ``arguments``, converted, and defaults.

    text: values are strings as on a command line, parsed by the parameter's type (lists and mappings as YAML);
    otherwise they are Python values. Relative paths in them are relative to the current folder. label: the file
    name in error messages. Raises ``WorkflowError`` that lists unknown and missing parameters, and values that do not
    fit the parameter or a port that it feeds.
    """
    problems: list[Problem] = []
    mark = Mark(label, 1, 1)
    for name in arguments:
        if name not in graph.params:
            message = f"no parameter '{shorten(name)}'; {suggest(name[:60], graph.params, 'parameters')}"
            problems.append(Problem(mark, "unknown-param", message, f"params.{shorten(name)}"))
    values: dict[str, Any] = {}
    for name, parameter in graph.params.items():
        path = f"params.{name}"
        if name not in arguments:
            if parameter.required:
                kind, help = parameter.port.type, f" ({parameter.help})" if parameter.help else ""
                message = f"'{name}' ({kind}) has no default and was not given{help}"
                problems.append(Problem(parameter.mark, "missing-param", message, path))
            else:
                values[name] = copy_value(parameter.default)
            continue
        try:
            values[name] = _convert(parameter, arguments[name], text)
        except ValueError as error:
            problems.append(Problem(mark, "bad-value", f"'{name}': {error}", path))
    for name, message in list_misfits(graph.ops, values, graph.parameter_readers):
        value_mark = mark if name in arguments else graph.params[name].mark
        problems.append(Problem(value_mark, "bad-value", f"'{name}': {message}", f"params.{name}"))
    if graph.traits.loops:
        problems += find_trip_problems(graph.ops, values)
    if problems:
        raise WorkflowError(problems)
    return values


def _convert(parameter: Parameter, value: object, text: bool) -> object:
    """Convert a value to the parameter's type. Raises ``ValueError``."""
    kind = parameter.port.type
    value = _parse_text(value, parameter.port) if text and isinstance(value, str) else _from_numpy(value, kind)
    if value is None and kind.is_any:
        return None
    if not (is_plain_data(value) or isinstance(value, Path)) or not takes_literal(kind):
        if reason := explain_mismatch(value, kind) or find_tensor_problem(value):
            raise ValueError(reason)
        return value
    return convert_literal(parameter.port, value, Path.cwd())


def find_tensor_problem(value: Any) -> str | None:
    """The error message for a tensor, or a list with tensors, that is not finite; None if all elements are finite."""
    if isinstance(value, (list, tuple)):
        return next((reason for element in value if (reason := find_tensor_problem(element))), None)
    if not is_tensor(value) or not (value.is_floating_point() or value.is_complex()) or value.isfinite().all():
        return None
    count = int(value.isnan().sum())
    return f"expected numbers; found nan in {count} of {value.numel()} elements" if count else INFINITE


def find_count_problem(value: object, *, steps: bool = False) -> str | None:
    """The reason why a loop cannot run over a value (``steps``: for that many steps); None if it can."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"expected 0 or more iterations; found {value}" if value < 0 else None
    if steps:
        return f"expected a number of steps; found {describe_value(value)}"
    if is_iterable(value):
        return None
    return f"expected a sequence, a tensor or a number of iterations; found {describe_value(value)}"


def _parse_text(text: str, port: Port) -> object:
    """Parse text from the command line: as YAML, unless the type accepts text."""
    if not text.strip():
        return text
    if {str, Path} & set(port.type.alternatives):
        return parse_list_or_text(text, port)
    tree, problems = read_tree(text, "--set")
    if tree is None or problems:
        raise ValueError(f"{problems[0].message}; found '{shorten(text)}'")
    for key in find_repeated_keys(tree):
        raise ValueError(f"'{shorten(key.text)}' appears in it twice")
    return to_python(tree)


def parse_list_or_text(text: str, port: Port) -> object:
    """Parse text for a type that accepts text: as a list or mapping if the type accepts those too, else unchanged."""
    if not text.startswith(("[", "{")):
        return text
    tree, problems = read_tree(text, "--set")
    if tree is None or problems or isinstance(tree, Scalar):
        return text
    try:
        port.literal(to_python(tree))
    except ValueError:
        return text
    return to_python(tree)


def _from_numpy(value: object, kind: PortType) -> object:
    """NumPy values as Python numbers and, for a type that takes one, as tensors; an array is a list for other types.

    A tensor is a copy with the array's dtype. Raises ``ValueError`` for an array that no tensor holds, as of texts.
    """
    if isinstance(value, (bool, int, float)):
        return value
    if type(value).__module__ == "numpy" and isinstance(value, np.ndarray):
        if kind.is_any or any(isinstance(a, type) and Tensor in a.__mro__ for a in kind.alternatives):
            try:
                return torch.tensor(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
            except (TypeError, ValueError):
                raise ValueError(f"expected an array of numbers; found one of dtype {value.dtype}") from None
        return value.tolist()
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def list_misfits(
    ops: Mapping[str, Op], values: Mapping[str, Any], readers: Iterable[Op] | None = None
) -> list[tuple[str, str]]:
    """Parameters whose value does not fit a port they feed, at any depth and in all branches, each with a reason.

    readers: the operations to which parameters may come (``Graph.parameter_readers``); by default all.
    """
    reasons: dict[str, str] = {}
    if not values:
        return []
    readers = [*walk(ops)] if readers is None else readers
    origins = trace_origins(ops) if any(op.has_branches for op in readers) else {}
    for op in readers:
        misfits = _list_loop_misfits(op, origins, values) if op.has_blocks else _list_call_misfits(op, origins, values)
        for name, reason in misfits:
            reasons.setdefault(name, reason)
    return list(reasons.items())


def _list_call_misfits(call: Call, origins: Origins, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, port in list_parameter_ports(call, origins):
        if name not in values:
            continue
        value, reason = values[name], None
        try:
            if port.annotation is None or not takes_literal(port.type):
                reason = explain_mismatch(value, port.type)
            elif is_plain_data(value) or isinstance(value, Path):
                convert_literal(port, value, Path())
        except ValueError as error:
            reason = str(error)
        if reason:
            yield name, f"port '{port.name}' of {call.spec.id} (nodes.{call.key}): {reason}"


def _list_loop_misfits(loop: Loop, origins: Origins, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for count, is_steps in ((loop.over, False), (loop.steps, True)):
        sources = [origin.source for origin in list_origins(count, origins)] if count is not None else []
        for name in list_parameters(sources):
            if name in values and (reason := find_count_problem(values[name], steps=is_steps)):
                yield name, f"loop nodes.{loop.key}: {reason}"
    for description, source, port in loop.option_ports():
        if isinstance(source, Param) and source.name in values:
            try:
                convert_literal(port, values[source.name], Path())
            except ValueError as error:
                yield source.name, f"{description}: {error}"

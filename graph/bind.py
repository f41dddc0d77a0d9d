"""Values for a graph's parameters: checked and converted, all that is wrong in one error."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError, choices
from guidegraph.graph.ir import Call, Graph, Loop, Op, Param, Parameter, walk
from guidegraph.graph.literals import is_plain, literal_value
from guidegraph.graph.node import Port
from guidegraph.graph.ownership import own
from guidegraph.graph.training_options import PREVIEW_EVERY, linkable_options
from guidegraph.graph.trust.limits import trip_problems
from guidegraph.graph.types import describe, is_tensor, mismatch, takes_literal
from guidegraph.graph.yamltree import Scalar, plain, read_tree, repeated_keys, short

INFINITIES = "expected finite numbers; found infinities"


def bind(graph: Graph, given: Mapping[str, object], *, text: bool = False, label: str = "params") -> dict[str, Any]:
    """A value for each parameter, by name.

    text: values are strings as on a command line, read by the parameter's type (a list or a mapping as YAML); without
    it they are Python values. A relative path that is given is one from the current folder. label: what errors name
    as the place. Raises ``WorkflowError`` that lists unknown and missing parameters, and values that do not fit the
    parameter or any port that it feeds.
    """
    problems: list[Problem] = []
    mark = Mark(label, 1, 1)
    for name in given:
        if name not in graph.params:
            message = f"no parameter '{short(name)}'; {choices(name[:60], graph.params, 'parameters')}"
            problems.append(Problem(mark, "unknown-param", message, f"params.{short(name)}"))
    values: dict[str, Any] = {}
    for name, parameter in graph.params.items():
        where = f"params.{name}"
        if name not in given:
            if parameter.required:
                kind, help = parameter.port.type, f" ({parameter.help})" if parameter.help else ""
                message = f"'{name}' ({kind}) has no default and was not given{help}"
                problems.append(Problem(parameter.mark, "missing-param", message, where))
            else:
                values[name] = own(parameter.default)
            continue
        try:
            values[name] = _value(parameter, given[name], text)
        except ValueError as error:
            problems.append(Problem(mark, "bad-value", f"'{name}': {error}", where))
    for name, message in unfit(graph.ops, values):
        at = mark if name in given else graph.params[name].mark
        problems.append(Problem(at, "bad-value", f"'{name}': {message}", f"params.{name}"))
    problems += trip_problems(graph.ops, values)
    if problems:
        raise WorkflowError(problems)
    return values


def _value(parameter: Parameter, value: object, text: bool) -> object:
    """The value as the parameter's type; raises ``ValueError``."""
    kind = parameter.port.type
    value = _from_text(value, parameter.port) if text and isinstance(value, str) else _number(value)
    if value is None and kind.is_any:
        return None
    if not (is_plain(value) or isinstance(value, Path)) or not takes_literal(kind):
        if reason := mismatch(value, kind) or tensor_problem(value):
            raise ValueError(reason)
        return value
    return literal_value(parameter.port, value, Path.cwd())


def tensor_problem(value: Any) -> str | None:
    """Why a tensor, or one of a list, is none to compute with: it has an element that is no finite number."""
    if isinstance(value, (list, tuple)):
        return next((reason for one in value if (reason := tensor_problem(one))), None)
    if not is_tensor(value) or not (value.is_floating_point() or value.is_complex()) or value.isfinite().all():
        return None
    count = int(value.isnan().sum())
    return f"expected numbers; found nan in {count} of {value.numel()} elements" if count else INFINITIES


def _uncountable(value: object, steps: bool) -> str | None:
    """Why a loop cannot run over a value (or, for ``steps``, as many times)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"expected 0 or more iterations; found {value}" if value < 0 else None
    if steps:
        return f"expected a number of steps; found {describe(value)}"
    runs = hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, (str, Mapping))
    return None if runs else f"expected a sequence, a tensor or a number of times; found {describe(value)}"


def _from_text(text: str, port: Port) -> object:
    """A text from the command line: read as YAML, unless the type is one that text is a value of."""
    if not text.strip():
        return text
    if {str, Path} & set(port.type.alternatives):
        return _list_or_text(text, port)
    tree, problems = read_tree(text, "--set")
    if tree is None or problems:
        raise ValueError(f"{problems[0].message}; found '{short(text)}'")
    for key in repeated_keys(tree):
        raise ValueError(f"'{short(key.text)}' stands in it twice")
    return plain(tree)


def _list_or_text(text: str, port: Port) -> object:
    """For a type that takes text: a list (or a mapping) where the whole text is one that the type takes as well."""
    if not text.startswith(("[", "{")):
        return text
    tree, problems = read_tree(text, "--set")
    if tree is None or problems or isinstance(tree, Scalar):
        return text
    try:
        port.literal(plain(tree))
    except ValueError:
        return text
    return plain(tree)


def _number(value: object) -> object:
    """NumPy's numbers as Python's."""
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def unfit(ops: Mapping[str, Op], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The values of parameters that do not fit what they feed, in any body, each with the first reason."""
    found: dict[str, str] = {}
    for op in walk(ops) if values else ():
        for name, reason in _unfit_loop(op, values) if isinstance(op, Loop) else _unfit_call(op, values):
            found.setdefault(name, reason)
    return list(found.items())


def _unfit_call(call: Call, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, port in call.parameters():
        if name not in values:
            continue
        value, reason = values[name], None
        try:
            if port.annotation is None or not takes_literal(port.type):
                reason = mismatch(value, port.type)
            elif is_plain(value) or isinstance(value, Path):
                literal_value(port, value, Path())
        except ValueError as error:
            reason = str(error)
        if reason:
            yield name, f"port '{port.name}' of {call.spec.id} (nodes.{call.key}): {reason}"


def _unfit_loop(loop: Loop, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    steps = loop.training.steps if loop.training else None
    for source, counts in ((loop.over, False), (steps, True)):
        if not isinstance(source, Param) or source.name not in values:
            continue
        if reason := _uncountable(values[source.name], counts):
            yield source.name, f"loop nodes.{loop.key}: {reason}"
    every = loop.training.preview.every if loop.training and loop.training.preview else None
    if isinstance(every, Param) and every.name in values:
        try:
            literal_value(PREVIEW_EVERY, values[every.name], Path())
        except ValueError as error:
            yield every.name, f"'every' of the preview of loop nodes.{loop.key}: {error}"
    for model in loop.training.models if loop.training else ():
        ports = linkable_options(model.optimizer)
        for option, source in model.linked.items():
            if not isinstance(source, Param) or source.name not in values:
                continue
            try:
                literal_value(ports[option], values[source.name], Path())
            except ValueError as error:
                yield source.name, f"'{option}' of '{model.model}', trained by loop nodes.{loop.key}: {error}"

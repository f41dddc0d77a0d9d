"""Values for a graph's parameters: checked and converted, all that is wrong in one error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guidegraph.graph.errors import Mark, Problem, WorkflowError, choices
from guidegraph.graph.ir import Call, Graph, Param, Parameter, walk
from guidegraph.graph.paths import resolve
from guidegraph.graph.types import PortType, is_tensor, mismatch, takes_literal
from guidegraph.graph.yamltree import plain, read_tree


def bind(graph: Graph, given: Mapping[str, object], *, text: bool = False, label: str = "params") -> dict[str, Any]:
    """A value for each parameter, by name.

    text: values are strings as on a command line, read by the parameter's type (a list or a mapping as YAML); without it
    they are Python values. A relative path that is given is one from the current folder. label: what errors name as
    the place. Raises ``WorkflowError`` that lists unknown and missing parameters, and values that do not fit the
    parameter or any port that it feeds.
    """
    problems: list[Problem] = []
    mark = Mark(label, 1, 1)
    for name in given:
        if name not in graph.params:
            message = f"no parameter '{name}'; {choices(name, graph.params, 'parameters')}"
            problems.append(Problem(mark, "unknown-param", message, f"params.{name}"))
    values: dict[str, Any] = {}
    for name, parameter in graph.params.items():
        where = f"params.{name}"
        if name not in given:
            if parameter.required:
                kind, help = parameter.port.type, f" ({parameter.help})" if parameter.help else ""
                message = f"'{name}' ({kind}) has no default and was not given{help}"
                problems.append(Problem(parameter.mark, "missing-param", message, where))
            else:
                values[name] = parameter.default
            continue
        try:
            values[name] = _value(parameter, given[name], text)
        except ValueError as error:
            problems.append(Problem(mark, "bad-value", f"'{name}': {error}", where))
    problems += _at_ports(graph, values, mark, given)
    if problems:
        raise WorkflowError(problems)
    return values


def _value(parameter: Parameter, value: object, text: bool) -> object:
    """The value as the parameter's type; raises ``ValueError``."""
    kind = parameter.port.type
    if text and isinstance(value, str):
        value = _from_text(value, kind)
    if value is None and (kind.optional or kind.is_any):
        return None
    if not _is_plain(value) or not takes_literal(kind):
        if reason := mismatch(value, kind):
            raise ValueError(reason)
        return value
    checked = parameter.port.literal(value)
    return resolve(checked, Path.cwd()) if isinstance(checked, Path) else checked


def _from_text(text: str, kind: PortType) -> object:
    if {str, Path} & {a for a in kind.alternatives if isinstance(a, type)} and not text.startswith(("[", "{")):
        return text
    if kind == PortType((str,)) or kind == PortType((Path,)):
        return text
    try:
        return plain(read_tree(text, "--set")) if text.strip() else text
    except WorkflowError as error:
        raise ValueError(error.problems[0].message) from None


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, (bool, int, float, str, Path))


def _at_ports(graph: Graph, values: Mapping[str, Any], mark: Mark, given: Mapping[str, object]) -> list[Problem]:
    """Values that do not fit a port which they feed, in any body."""
    problems: dict[tuple[str, str], Problem] = {}
    for op in walk(graph.ops):
        if not isinstance(op, Call):
            continue
        for name, source in (*op.inputs.items(), *op.settings.items()):
            if not isinstance(source, Param) or source.name not in values:
                continue
            port, value = op.spec.port(name), values[source.name]
            if port is None or is_tensor(value) or not _is_plain(value) or not takes_literal(port.type):
                continue
            try:
                if not (value is None and port.type.optional):
                    port.literal(value)
            except ValueError as error:
                at = mark if source.name in given else graph.params[source.name].mark
                message = f"'{source.name}' does not fit port '{name}' of {op.spec.id}: {error}"
                problems.setdefault((source.name, str(error)), Problem(at, "bad-value", message, f"nodes.{op.key}"))
    return list(problems.values())

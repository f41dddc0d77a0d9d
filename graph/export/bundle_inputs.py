"""The inputs of a bundle: the parameters of a workflow that a run can set."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.file_stems import choose_stems
from guidegraph.graph.export.partition.example_values import HostPlan
from guidegraph.graph.export.partition.host_operations import file_suffix
from guidegraph.graph.export.partition.subgraph import is_number
from guidegraph.graph.ir import Parameter
from guidegraph.graph.trust.file_checks import read_regular
from guidegraph.graph.types import PortType, SequenceOf
from guidegraph_runtime.allowed_files import choose_file_type, takes_file
from guidegraph_runtime.bundle.manifest import Input, Operation
from guidegraph_runtime.bundle.manifest_types import walk_operations
from guidegraph_runtime.declare.settings import alternatives_of
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running.compute import PARAMS

KINDS: Mapping[type, str] = {str: "str", int: "int", float: "float", bool: "bool", Path: "path"}


def input_type(kind: PortType, value: Any) -> tuple[str, bool] | None:
    """The type of a parameter as a bundle's input, and whether it takes a list; None if it cannot be an input.

    If the type only says that it is a list, the type of its elements at export counts; lists of numbers in a list are
    ``numbers``. A parameter that is infinite at export cannot be an input, since the file of a bundle has finite
    numbers only.
    """
    if any(isinstance(number, float) and not math.isfinite(number) for number in _flatten(value)):
        return None
    plain = [
        alternative
        for alternative in kind.alternatives
        if not isinstance(alternative, SequenceOf) and alternative not in (list, tuple)
    ]
    many = len(plain) < len(kind.alternatives)
    if not plain and isinstance(value, (list, tuple)):
        plain = list({type(alternative) for alternative in value})
    if len(plain) == 1 and plain[0] in (list, tuple) and all(map(is_number, _flatten(value))):
        return "numbers", True
    if len(plain) != 1 or plain[0] not in KINDS:
        return None
    return KINDS[plain[0]], many


def _flatten(value: Any) -> Iterator[Any]:
    """The elements of a list, or of the lists in it; any other value alone."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        yield from item if isinstance(item, (list, tuple)) else [item]


def make_inputs(
    parameters: Mapping[str, Parameter], values: Mapping[str, Any], plan: Sequence[Operation], host: HostPlan
) -> dict[str, Input]:
    """The inputs of a bundle. values: their defaults. plan: what reads them. host: takes the files that they name.

    Raises ``ExportError`` for a file that cannot be read.
    """
    stems = choose_stems(values)
    needed = _find_needed(plan)
    readers: dict[str, set[str]] = {}  # the operations that read the file of each parameter that names one
    for operation in walk_operations(plan):
        for port, source in operation.inputs.items():
            if source.startswith(PARAMS) and takes_file(operation.op, port):
                readers.setdefault(source.removeprefix(PARAMS), set()).add(operation.op)
    inputs = {}
    for name, parameter in parameters.items():
        value, stem, optional = values[name], stems[name], parameter.port.type.optional
        type_and_many = input_type(parameter.port.type, value)
        assert type_and_many is not None
        kind, many = type_and_many
        if kind == "path" and name in readers:
            kind = choose_file_type(readers[name])
        if isinstance(value, Path):
            value = _keep_file(parameter, stem, value, host)
        elif isinstance(value, (list, tuple)):
            numbered = enumerate(value)
            value = [_keep_file(parameter, f"{stem}-{i}", v, host) if isinstance(v, Path) else v for i, v in numbered]
        inputs[name] = Input(
            kind,
            default=value,
            help=parameter.help,
            many=many,
            required=value is None and not optional,
            optional=value is not None and optional and name not in needed,
        )
    return inputs


def _find_needed(plan: Iterable[Operation]) -> set[str]:
    """The parameters that some operation of a plan reads, and does not take as null."""
    needed = set()
    for operation in walk_operations(plan):
        hints = OPERATIONS[operation.op].hints if operation.op in OPERATIONS else {}
        links = {**operation.inputs, "over": str(operation.settings.get("over", ""))}
        for port, source in links.items():
            kind, dot, name = source.partition(".")
            if kind == "params" and dot and NoneType not in alternatives_of(hints.get(port)):
                needed.add(name)
    return needed


def _keep_file(parameter: Parameter, stem: str, path: Path, host: HostPlan) -> str:
    """Copy the file that a parameter names into the bundle, as the default of the input, and return its name there."""
    file = f"inputs/{stem}{file_suffix(path)}"
    try:
        host.files[file] = read_regular(path, limit="file_bytes")
    except OSError as error:
        reason = f"parameter '{parameter.name}' names '{path}', which cannot be read: {error.strerror}"
        raise ExportError(reason, "give it a file", place=str(parameter.mark)) from error
    return file

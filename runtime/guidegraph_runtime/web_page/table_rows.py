"""Values that need no browser: computed by the runtime for each value of the input that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import Input, Operation, walk_operations
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.operation_order import reads
from guidegraph_runtime.running.plan import PARAMS, GuardError, PlanRun, check_guards, refuse_part
from guidegraph_runtime.running.unread_values import read_flags
from guidegraph_runtime.running.values import Values
from guidegraph_runtime.web_page.support import PAGE_DTYPES, PAGE_OPERATIONS, PageError, check_operations

Array = NDArray[Any]

HIGHEST, MAX_DEFAULT = 100, 1000
"""Tables go up to the first value of an input, or to its default if that is more, but never beyond the second."""


@dataclass(frozen=True)
class InputRange:
    """The range of an input in the tables, both ends included, and the names of the values that it selects."""

    low: int
    high: int
    names: tuple[str, ...]


@dataclass(frozen=True)
class PageTables:
    """The operations that are left to the page, and the tables of the others.

    rows: by input; "" for values that depend on none. arrays: as INPUT=VALUE/NAME, or NAME alone.
    """

    plan: Sequence[Operation]
    rows: Mapping[str, InputRange]
    arrays: Mapping[str, Array]


@dataclass(frozen=True)
class PlanSource:
    """The parts of a bundle that its tables are computed from. read_file: reads a file of the bundle."""

    location: str
    inputs: Mapping[str, Input]
    tables: Mapping[str, Array]
    read_file: Callable[[str], bytes]


def make_tables(source: PlanSource, plan: Sequence[Operation], outputs: Sequence[str]) -> PageTables:
    """Tabulate the operations of a plan, outside its loops, that the page does not compute.

    outputs: the names of the values that the page shows. Raises ``PageError`` for an operation that depends on several
    inputs or on one that is not an integer, and for one that is left and that the page lacks.
    """
    tabulated, kept = _split(source, plan)
    check_operations(kept, source.read_file)
    needed = {*outputs}.union(*map(_reads_with_flags, kept))
    rows: dict[str, InputRange] = {}
    arrays: dict[str, Array] = {}
    for name in dict.fromkeys(tabulated.values()):
        operations = [operation for operation in plan if tabulated.get(operation.node) in ("", name)]
        own = [operation for operation in operations if tabulated[operation.node] == name]
        names = sorted(needed.intersection(output for item in own for output in item.outputs))
        rows[name], values = _tabulate(source, name, operations, kept, names)
        arrays |= values
    if constants := sorted(needed & source.tables.keys()):
        before = rows[""].names if "" in rows else ()
        rows[""] = InputRange(0, 0, (*before, *constants))
        arrays |= {constant: _to_array(constant, source.tables[constant]) for constant in constants}
    return PageTables(kept, rows, arrays)


def _split(source: PlanSource, plan: Sequence[Operation]) -> tuple[dict[str, str], list[Operation]]:
    """The input, or "" for none, of each operation that is tabulated, by node; and the other operations."""
    depends: dict[str, frozenset[str]] = {name: frozenset() for name in source.tables}
    depends |= {PARAMS + name: frozenset([name]) for name in source.inputs}
    tabulated: dict[str, str] = {}
    kept = []
    for operation in plan:
        names = reads(operation)
        is_known = all(name in depends for name in names)
        if operation.op in ("part", "loop", *PAGE_OPERATIONS) or not is_known:
            kept.append(operation)
            continue
        inputs = frozenset[str]().union(*(depends[name] for name in names))
        _check_inputs(source, operation, inputs)
        tabulated[operation.node] = next(iter(inputs), "")
        depends |= dict.fromkeys(operation.outputs, inputs)
    return tabulated, kept


def _check_inputs(source: PlanSource, operation: Operation, inputs: frozenset[str]) -> None:
    if len(inputs) > 1:
        raise PageError(
            f"{operation.node} ({operation.op}) depends on the inputs {', '.join(sorted(inputs))}, and a page has its "
            "results for each value of one: write the other values into the workflow"
        )
    for name in inputs:
        if source.inputs[name].type != "int" or not isinstance(source.inputs[name].default, int):
            raise PageError(
                f"{operation.node} ({operation.op}) depends on the input {name}, and a page has its results for each "
                f"value of an integer with a default: write the value of {name} into the workflow"
            )


def _tabulate(
    source: PlanSource, name: str, operations: Sequence[Operation], kept: Sequence[Operation], names: Sequence[str]
) -> tuple[InputRange, dict[str, Array]]:
    """The values of some names for each valid value of an input around its default."""
    if not name:
        table = _compute(source, {}, operations, kept)
        return InputRange(0, 0, tuple(names)), {item: _to_array(item, table[item]) for item in names}
    default: Any = source.inputs[name].default
    if default > MAX_DEFAULT:
        raise PageError(
            f"the results of {operations[-1].node} are computed for each value of the input {name}, up to its default, "
            f"{default}: give it a default of at most {MAX_DEFAULT}, or write its value into the workflow"
        )
    tables = {default: _compute(source, {name: default}, operations, kept)}
    for values in (range(default - 1, 0, -1), range(default + 1, HIGHEST + 1)):
        for value in values:
            try:
                tables[value] = _compute(source, {name: value}, operations, kept)
            except (BundleError, GuardError):  # this value and those beyond are refused, as in any other run
                break
    arrays = {
        f"{name}={value}/{item}": _to_array(item, table[item]) for value, table in tables.items() for item in names
    }
    return InputRange(min(tables), max(tables), tuple(names)), arrays


def _compute(
    source: PlanSource, values: Mapping[str, int], operations: Sequence[Operation], kept: Sequence[Operation]
) -> Values:
    """The results of operations with a value of an input. Raises ``GuardError`` if a part was traced with others."""
    plan_values = Values(source.tables)
    plan_values.update({PARAMS + name: value for name, value in values.items()})
    PlanRun(source.location, refuse_part, source.read_file, plan_values).run(operations)
    for operation in walk_operations(kept):
        if operation.op == "part":
            check_guards(operation, plan_values)
    return plan_values


def _reads_with_flags(operation: Operation) -> set[str]:
    """The values that an operation, or its body, reads, and those that say whether another is read."""
    flags = {field for item in walk_operations([operation]) for field, _ in read_flags(item).values()}
    return reads(operation) | flags


def _to_array(name: str, value: Any) -> Array:
    array = np.ascontiguousarray(value)
    if array.dtype.kind not in "biuf":
        raise PageError(f"'{name}' is {value!r:.60}, and a page has numbers only: use guidegraph-run")
    if str(array.dtype) not in PAGE_DTYPES:
        raise PageError(
            f"'{name}' is in {array.dtype}, and a page has tensors of {', '.join(sorted(PAGE_DTYPES))}: "
            "use guidegraph-run"
        )
    return array.reshape(np.shape(value))

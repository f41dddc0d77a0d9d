"""Values that need no browser: computed by the runtime for each value of the input that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from guidegraph_browser.support import (
    PAGE_DTYPES,
    PAGE_OPERATIONS,
    PageError,
    find_operation_problems,
    page_inputs,
)
from guidegraph_runtime.bundle.manifest_types import Input, Operation, walk_operations
from guidegraph_runtime.errors import BundleError
from guidegraph_runtime.running.compute import PARAMS, Computation, GuardError, check_guards, refuse_part
from guidegraph_runtime.running.operation_order import reads
from guidegraph_runtime.running.unread_values import read_flags
from guidegraph_runtime.running.values import Values

Array = NDArray[Any]

HIGHEST, HIGHEST_OF_SEVERAL, MAX_DEFAULT = 100, 50, 1000
"""Tables go up to the first value of an input, to the second where they also depend on a share of it or on a choice, or
to its default if that is more, but never beyond the third (with those, the first)."""
SHARE = "strength"
"""The setting of samplers and levels that is the share of the steps to take, of which only their number counts."""


class TableKey(NamedTuple):
    """The inputs that tables are for, "" for none: an integer, a share of it, and a choice among words."""

    input: str = ""
    share: str = ""
    choice: str = ""


@dataclass(frozen=True)
class TableRange:
    """Values that depend on an input: its range, both ends included, and the names of the values that it selects.

    input: "" for values that depend on none. share: the input that is a share of it, or "". scalar: with a share, the
    names of values without an axis. choice: the input that has to be `value` for these values, or "".
    """

    input: str
    low: int
    high: int
    names: tuple[str, ...]
    share: str = ""
    scalar: tuple[str, ...] = ()
    choice: str = ""
    value: str = ""


@dataclass(frozen=True)
class PageTables:
    """The operations that are left to the page, and the tables of the others.

    arrays: as NAME without an input, as INPUT=VALUE/NAME with one, and CHOICE=WORD/… for a word of a choice. With a
    share there are tables for each value and each number of steps up to it: INPUT*SHARE/NAME has their different rows,
    INPUT*SHARE/NAME/index the rows of all tables in turn, and INPUT*SHARE/NAME/starts where each table begins there,
    and the end.
    """

    plan: Sequence[Operation]
    ranges: Sequence[TableRange]
    arrays: Mapping[str, Array]


@dataclass(frozen=True)
class PlanSource:
    """The parts of a bundle that its tables are computed from. read_file: reads a file of the bundle."""

    location: str
    inputs: Mapping[str, Input]
    tables: Mapping[str, Array]
    read_file: Callable[[str], bytes]


@dataclass
class PlanSplit:
    """A plan, split into the operations that are tabulated and those that are left to the page.

    reads: the inputs of each operation that is tabulated, by node. problems: why the page cannot compute the others.
    """

    tabulated: list[Operation] = field(default_factory=list)
    kept: list[Operation] = field(default_factory=list)
    reads: dict[str, TableKey] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def split_plan(source: PlanSource, plan: Sequence[Operation]) -> PlanSplit:
    """Split a plan: operations outside its loops that the page lacks are tabulated, unless they depend on a graph."""
    split = PlanSplit()
    depends: dict[str, frozenset[str]] = {name: frozenset() for name in source.tables}
    depends |= {PARAMS + name: frozenset([name]) for name in source.inputs}
    for operation in plan:
        names = reads(operation)
        if operation.op in ("part", "loop", *PAGE_OPERATIONS) or not all(name in depends for name in names):
            split.kept.append(operation)
            continue
        inputs = frozenset[str]().union(*(depends[name] for name in names))
        problem, key = _find_key(source, operation, inputs, split.tabulated)
        if problem:
            split.problems.append(f"{operation.node} ({operation.op}) {problem}")
        split.tabulated.append(operation)
        split.reads[operation.node] = key
        depends |= dict.fromkeys(operation.outputs, inputs)
    split.problems += find_operation_problems(split.kept, source.read_file)
    return split


def _find_key(
    source: PlanSource, operation: Operation, inputs: frozenset[str], before: Sequence[Operation]
) -> tuple[str, TableKey]:
    """Why an operation cannot be tabulated, or "", and the inputs that its tables are for."""
    shares = {
        name
        for name in inputs
        if source.inputs[name].type == "float" and all(_reads_as_share(item, name) for item in (*before, operation))
    }
    words = {name for name in inputs if source.inputs[name].type == "str" and source.inputs[name].choices}
    counts = inputs - shares - words
    if len(counts) > 1 or len(shares | words) > 1 or (shares and not counts):
        return (
            f"depends on the inputs {', '.join(sorted(inputs))}, and a page has its results for each value of one "
            f"integer, with one choice among words or each {SHARE}: write the other values into the workflow"
        ), TableKey()
    for name in counts:
        spec = source.inputs[name]
        if spec.type != "int" or not isinstance(spec.default, int):
            return (
                f"depends on the input {name}, and a page has its results for each value of an integer with a "
                f"default: write the value of {name} into the workflow"
            ), TableKey()
        if spec.default > (most := HIGHEST if shares | words else MAX_DEFAULT):
            return (
                f"is computed for each value of the input {name}, up to its default, {spec.default}: give it a "
                f"default of at most {most}, or write its value into the workflow"
            ), TableKey()
    return "", TableKey(*(next(iter(names), "") for names in (counts, shares, words)))


def _reads_as_share(operation: Operation, name: str) -> bool:
    """Whether an operation reads an input as the share of its steps, and their number from an input, or not at all."""
    ports = {port for port, link in operation.inputs.items() if link == PARAMS + name}
    is_number = operation.inputs.get("steps", "").startswith(PARAMS)
    return not ports or (ports == {SHARE} and operation.op.startswith("scheduler.") and is_number)


def find_table_problems(source: PlanSource, plan: Sequence[Operation], outputs: Sequence[str]) -> list[str]:
    """Why the page cannot run a plan. outputs: the names of the values that it shows."""
    split = split_plan(source, plan)
    problems = [*split.problems]
    for key, tabulation in {} if problems else _list_tabulations(source, split, outputs).items():
        table = tabulation.compute(key, tabulation.default_of(key.input), tabulation.default_of(key.choice))[-1]
        problems += [problem for item in tabulation.names if (problem := _number_problem(item, table[item]))]
    return problems


def make_tables(source: PlanSource, plan: Sequence[Operation], outputs: Sequence[str]) -> PageTables:
    """Tabulate the operations of a plan, outside its loops, that the page does not compute.

    outputs: the names of the values that the page shows. Raises ``PageError`` with the problems of
    `find_table_problems`.
    """
    if problems := find_table_problems(source, plan, outputs):
        raise PageError(*problems)
    split = split_plan(source, plan)
    ranges: list[TableRange] = []
    arrays: dict[str, Array] = {}
    for key, tabulation in _list_tabulations(source, split, outputs).items():
        for made, values in tabulation.tabulate(key):
            ranges.append(made)
            arrays |= values
    return PageTables(split.kept, ranges, arrays)


def _list_tabulations(source: PlanSource, split: PlanSplit, outputs: Sequence[str]) -> dict[TableKey, _Tabulation]:
    """The tabulations of each key; the one without inputs has the constants of the plan too."""
    needed = {*outputs}
    for operation in split.kept:  # what it or its body reads, and what says whether another value is read
        needed |= {name for item in walk_operations([operation]) for name, _ in read_flags(item).values()}
        needed |= {*page_inputs(operation).values()} if operation.body is None else reads(operation)
    tabulations = {}
    for key in dict.fromkeys([TableKey(), *split.reads.values()]):
        operations = [item for item in split.tabulated if {*split.reads[item.node]} <= {"", *key}]
        own = [item for item in operations if split.reads[item.node] == key]
        names = needed.intersection(output for item in own for output in item.outputs)
        names |= set() if any(key) else needed & source.tables.keys()
        if names or any(key):
            tabulations[key] = _Tabulation(source, operations, split.kept, tuple(sorted(names)))
    return tabulations


@dataclass(frozen=True)
class _Tabulation:
    """The computation of the values of some names. kept: the operations whose graphs' guards limit a range."""

    source: PlanSource
    operations: Sequence[Operation]
    kept: Sequence[Operation]
    names: tuple[str, ...]

    def default_of(self, name: str) -> Any:
        """The default of an input; None without one."""
        return self.source.inputs[name].default if name else None

    def tabulate(self, key: TableKey) -> Iterator[tuple[TableRange, dict[str, Array]]]:
        """The ranges and arrays for each word of a choice, without those that the graphs do not take."""
        chosen = self.default_of(key.choice)
        for word in (self.source.inputs[key.choice].choices or ()) if key.choice else (None,):
            try:
                made, arrays = self._tabulate(key, word)
            except (BundleError, GuardError):
                if word == chosen:
                    raise
                continue
            prefix = f"{key.choice}={word}/" if key.choice else ""
            value = str(word) if key.choice else ""
            yield (
                replace(made, choice=key.choice, value=value),
                {f"{prefix}{name}": array for name, array in arrays.items()},
            )

    def _tabulate(self, key: TableKey, word: Any) -> tuple[TableRange, dict[str, Array]]:
        """The values for each valid value of an input around its default, and for each share of it."""
        name, share, _ = key
        if not name:
            (table,) = self.compute(key, None, word)
            return TableRange("", 0, 0, self.names), {item: _to_array(table[item]) for item in self.names}
        default = self.default_of(name)
        tables = {default: self.compute(key, default, word)}
        highest = HIGHEST_OF_SEVERAL if share or key.choice else HIGHEST
        for values in (range(default - 1, 0, -1), range(default + 1, highest + 1)):
            for value in values:
                try:
                    tables[value] = self.compute(key, value, word)
                except (BundleError, GuardError):  # this value and those beyond are refused, as in any other run
                    break
        low, high = min(tables), max(tables)
        if not share:
            arrays = {
                f"{name}={value}/{item}": _to_array(table[item])
                for value, (table,) in tables.items()
                for item in self.names
            }
            return TableRange(name, low, high, self.names), arrays
        in_order = [table for value in range(low, high + 1) for table in tables[value]]
        scalar = tuple(item for item in self.names if not np.ndim(in_order[0][item]))
        arrays = {}
        for item in self.names:
            rows = [np.atleast_1d(_to_array(table[item])) for table in in_order]
            every = np.concatenate(rows)
            as_bytes = every.reshape(len(every), -1).view(np.uint8)
            _, first, index = np.unique(as_bytes, axis=0, return_index=True, return_inverse=True)
            path = f"{name}*{share}/{item}"
            arrays |= {path: every[first], f"{path}/index": index.reshape(-1).astype(np.int32)}
            arrays[f"{path}/starts"] = np.cumsum([0, *map(len, rows)]).astype(np.int32)
        return TableRange(name, low, high, self.names, share, scalar), arrays

    def compute(self, key: TableKey, value: Any, word: Any) -> list[Values]:
        """The results with a value of the input and a word of the choice; with a share, for 1 to that many steps.

        Raises ``GuardError`` if a part was traced with others.
        """
        results = []
        for kept in range(1, value + 1) if key.share else (value,):
            plan_values = Values(self.source.tables)
            values = {key.input: value, key.choice: word, key.share: kept / value if key.share else None}
            plan_values |= {PARAMS + name: item for name, item in values.items() if name}
            Computation(self.source.location, refuse_part, self.source.read_file, plan_values).run(self.operations)
            for operation in walk_operations(self.kept):
                if operation.op == "part":
                    check_guards(operation, plan_values)
            results.append(plan_values)
        return results


def _to_array(value: Any) -> Array:
    return np.ascontiguousarray(value).reshape(np.shape(value))


def _number_problem(name: str, value: Any) -> str:
    """Why the page cannot hold a value; "" if it can."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        return f"'{name}' is {value!r:.60}, and a page has numbers only: use guidegraph-run"
    if str(array.dtype) in PAGE_DTYPES:
        return ""
    types = ", ".join(sorted(PAGE_DTYPES))
    return f"'{name}' is in {array.dtype}, and a page has tensors of {types}: use guidegraph-run"

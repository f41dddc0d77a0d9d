"""Compute a bundle's plan: its host operations, and the graphs of its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.bundle.manifest_types import Operation
from guidegraph_runtime.declare.choice_words import WHEN
from guidegraph_runtime.error_text import error_text
from guidegraph_runtime.errors import BundleError, SettingError
from guidegraph_runtime.limits import LimitExceeded, TripCount, current_limits, show_limit
from guidegraph_runtime.machine.shortages import with_shortage
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running.choices import Choice
from guidegraph_runtime.running.operation_order import schedule_operations
from guidegraph_runtime.running.unread_values import Flags, find_unread, is_unread, zeros_like
from guidegraph_runtime.running.values import Loop, Values, build_arguments
from guidegraph_runtime.running.walk import Walk, walk
from guidegraph_runtime.sessions.device_values import DeviceValue, to_host, to_placeholder

Array = NDArray[Any]
PARAMS = "params."
"""The prefix of the names of inputs among the values of a plan."""
Progress = Callable[[str, int, int], None]


class InputError(ValueError):
    """An input of the bundle has a wrong value. ``param`` is its name, "" if it is not known."""

    def __init__(self, param: str, message: str):
        self.param = param
        super().__init__(message)


class GuardError(InputError):
    """A plain field differs from its value when the part was traced."""


class PartRunner(Protocol):
    """Runs a part: maps values by name, in any dtype and shape that fits, to outputs by name."""

    def __call__(self, part: str, inputs: Mapping[str, Any], /) -> Mapping[str, Array | DeviceValue]: ...


@dataclass
class Computation:
    """Computes the operations of a plan in one run.

    Values that parts leave on a device are copied to the host when an operation reads them.
    location: the bundle, for errors. run_part: runs a part. unread: for operations whose result may be unread, the
    flags under which they are skipped. trips: counts the iterations of loops. started: the start of the run by the
    monotonic clock. ready: values of operations outside loops that are computed already, by node. code: the error code
    of failing operations. limit_code: the error code of exceeded limits.
    """

    location: str
    run_part: PartRunner
    files: Callable[[str], bytes]
    values: Values = field(default_factory=Values)
    unread: dict[str, Flags] = field(default_factory=dict)
    trips: TripCount = field(default_factory=TripCount)
    started: float = field(default_factory=time.monotonic)
    ready: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    code: str = "operation-failed"
    limit_code: str = "limit-reached"

    def walk(self, plan: Iterable[Operation], targets: Sequence[str] | None = None) -> Walk:
        """Walk a plan for the values ``targets``, by default for all. Raises ``BundleError``."""
        return walk(plan, self, targets)

    def run(self, plan: Iterable[Operation], targets: Sequence[str] | None = None) -> None:
        """Walk a plan to its end."""
        for _ in self.walk(plan, targets):
            pass

    @contextmanager
    def naming(self, operation: Operation) -> Iterator[None]:
        """Raise errors of the block as a ``BundleError`` that names an operation."""
        try:
            yield
        except LimitExceeded as error:
            message = f"{operation.node} ({operation.op}): {error}"
            raise BundleError(self.location, self.limit_code, message, param=_find_param(operation, error)) from error
        except (ValueError, TypeError, OSError, KeyError, IndexError, ArithmeticError, MemoryError) as error:
            message = f"{operation.node} ({operation.op}): {with_shortage(error_text(error), error)}"
            raise BundleError(self.location, self.code, message, param=_find_param(operation, error)) from error

    def check_seconds(self) -> None:
        """Raise ``BundleError`` if the run has exceeded its limit of seconds."""
        seconds = current_limits().seconds
        if seconds is not None and time.monotonic() - self.started >= seconds:
            message = (
                f"the run took longer than the limit of {show_limit('seconds', seconds)}; outputs that were complete "
                "are kept. If it may take longer, raise the limit: --limit seconds=VALUE"
            )
            raise BundleError(self.location, "limit-reached", message)

    def schedule(self, plan: Sequence[Operation], targets: Sequence[str]) -> Iterator[Operation]:
        """Yield the operations to run for some values; each must be run before the next. Raises ``BundleError``."""
        try:
            yield from schedule_operations(plan, targets, self.values, self.is_known)
        except ValueError as error:
            raise BundleError(self.location, self.code, str(error)) from error

    def is_known(self, value: Any) -> bool:
        """Whether a value is known, so that it can select a branch."""
        return True

    def host(self, operation: Operation) -> Mapping[str, Any]:
        """The results of a host operation."""
        if operation.node in self.ready:
            return self.ready[operation.node]
        flags = self.unread.get(operation.node)
        if flags is not None and is_unread(flags, self.values):
            return {operation.outputs[0]: zeros_like(operation, self.values)}
        shapes = OPERATIONS[operation.op].shapes_read  # of these inputs, only the shape is read
        inputs = {
            port: (to_placeholder if port in shapes else to_host)(self.values.read(name))
            for port, name in operation.inputs.items()
        }
        return self.compute(operation, inputs)

    def compute(self, operation: Operation, inputs: Mapping[str, Any]) -> Values:
        """Compute a host operation; return its results by the names of the values."""
        settings = {name: self._setting(value) for name, value in operation.settings.items()}
        # Fields of structured ports that are not tensors.
        fields = {name: settings.pop(name) for name in [*settings] if "." in name}
        results = Values()
        for name, value in OPERATIONS[operation.op](**build_arguments({**inputs, **fields}), **settings).items():
            results.keep(operation.node if name == "out" else f"{operation.node}.{name}", value)
        return results

    def _setting(self, value: Any) -> Any:
        """Replace references to the bundle's files in a literal by their bytes."""
        if isinstance(value, list):
            return [self._setting(item) for item in value]
        if not isinstance(value, dict):
            return value
        if [*value] == ["file"]:
            return self.files(value["file"])
        return {name: self._setting(item) for name, item in value.items()}

    def choose(self, operation: Operation) -> Mapping[str, Any]:
        """The values of the branch that a choice takes."""
        choice = Choice.of(operation)
        branch = choice.select_branch(lambda name: to_host(self.values.read(name)))
        return choice.values(branch, self.values.read)

    def find_form(self, operation: Operation) -> Operation:
        """The first shorter form of a part whose numbers are those of this step; the part itself if there is none."""
        for form in operation.body or ():
            numbers: Any = form.settings[WHEN]
            if all(np.all(to_host(self.values.read(name)) == value) for name, value in numbers.items()):
                return form
        return operation

    def part(self, operation: Operation) -> Mapping[str, Any]:
        """The results of a part's graph."""
        return self.run_part(operation.node, self.read_part_inputs(operation))

    def read_part_inputs(self, operation: Operation) -> dict[str, Any]:
        """The inputs of a part by name. Raises ``ValueError`` if a plain field differs from its value at export."""
        check_guards(operation, self.values)
        return {name: self.values.read(source) for name, source in operation.inputs.items()}

    def read_items(self, loop: Loop) -> Any:
        """The number of a loop's iterations, or a sequence with an item for each. Raises ``InputError``."""
        items = to_host(self.values.read(loop.over)) if isinstance(loop.over, str) else loop.over
        if isinstance(items, np.ndarray) and items.ndim == 0 and items.dtype.kind in "iu":
            items = int(items)  # a number that is the same in every run is a table
        check_iterations(loop.over, items)
        return items

    def enter_loop(self, loop: Loop, body: Sequence[Operation]) -> Sequence[Any]:
        """The items of a loop's iterations, which are counted. Raises ``InputError`` for a negative number."""
        items = self.read_items(loop)
        self.trips.begin(items if isinstance(items, int) else len(items))
        self.unread |= find_unread(loop, body)
        return range(items) if isinstance(items, int) else cast(Sequence[Any], items)

    def leave_loop(self, loop: Loop, collected: Mapping[str, Sequence[Any]]) -> Mapping[str, Any]:
        """Stack the values that a loop collected; without iterations, an empty array (0), as in the engine."""
        return {
            name: np.stack([*map(to_host, values)]) if values else np.empty(0, np.float32)
            for name, values in collected.items()
        }


def refuse_part(part: str, inputs: Mapping[str, Any]) -> NoReturn:
    """The `PartRunner` of a plan whose graphs are not run here. Raises ``ValueError``."""
    raise ValueError(f"part '{part}' is not run here: it belongs to a graph")


def _find_param(operation: Operation, error: Exception) -> str | None:
    """The input that an operation's error is about: the one it names, or the one that its setting is wired to.

    A setting of the plan is ``node.setting``, as in an override.
    """
    if isinstance(error, InputError):
        return error.param or None
    if not isinstance(error, (LimitExceeded, SettingError)):
        return None
    source = operation.inputs.get(error.setting, "")
    if source.startswith(PARAMS):
        return source.removeprefix(PARAMS)
    return f"{operation.node}.{error.setting}" if error.setting in operation.settings else None


def check_iterations(over: str | int, items: Any) -> None:
    """Raise ``InputError`` for a negative number of iterations. over: its name in the plan, or the number."""
    if isinstance(items, int) and items < 0:
        param = str(over).removeprefix(PARAMS) if str(over).startswith(PARAMS) else ""
        raise InputError(param, f"expected 0 or more iterations; found {items}")


def check_guards(operation: Operation, values: Values) -> None:
    """Check a part's guards. Raises ``GuardError`` if a plain field differs from its value when the part was traced."""
    expected: Any = operation.settings.get("fields", {})
    for name, guard in expected.items():
        if name in values and to_host(values[name]) != guard["is"]:
            why = f": {guard['why']}" if "why" in guard else ""
            raise GuardError(
                name.removeprefix(PARAMS) if name.startswith(PARAMS) else "",
                f"'{name}' is {values[name]!r} and the graph was traced with {guard['is']!r}{why}; give settings that "
                "keep it, or export the workflow with these",
            )

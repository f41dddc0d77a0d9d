"""Rehearse a plan: find errors before the graphs are run.

Host operations with known inputs are computed, since they are cheap. For parts and for operations that draw noise, only
the shapes are computed. Values that depend on the graphs stay unknown until the run.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from math import floor, prod
from typing import Any, NamedTuple, cast

import numpy as np

from guidegraph_runtime.admission import (
    SampleCount,
    Shape,
    ShapeOnly,
    count_rows,
    describe_mismatch,
    find_memory_problem,
    find_mismatch,
    find_multiple_problem,
)
from guidegraph_runtime.bundle.folder import estimate_cost
from guidegraph_runtime.bundle.manifest_types import BATCH, MULTIPLES, RANGES, Operation, Part, parse_bounds
from guidegraph_runtime.errors import SettingError
from guidegraph_runtime.operations import OPERATIONS
from guidegraph_runtime.running.choices import Choice
from guidegraph_runtime.running.compute import PARAMS, Computation, InputError, check_guards
from guidegraph_runtime.running.values import Loop, Values, build_arguments
from guidegraph_runtime.sessions.broadcasting import axis_sizes, broadcast_shapes, check_broadcast

REFUSED = "refused"


class ValueSource(NamedTuple):
    """The source of a value as text, and the input that it is; "" if it is none."""

    text: str
    param: str = ""


class Unknown:
    """A value that is unknown before the run."""


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Demand:
    """The resources of a run, as far as a rehearsal finds them.

    steps: iterations of the loops outside others; loops whose length depends on a graph count as none. samples: the
    largest batch of a part in a loop. nbytes: of the run's values, without the tables of the bundle. call_bytes: of its
    largest call of a part, and seconds: of all its calls, as the export measured them; 0 if it did not.
    """

    steps: int = 0
    samples: int = 1
    nbytes: int = 0
    call_bytes: int = 0
    seconds: float = 0.0


@dataclass
class Rehearsal(Computation):
    """Finds the shapes of a plan's values, and computes only cheap ones.

    It raises ``BundleError`` with the code ``refused`` or ``over-limit``. parts: by name. limit: the most bytes of one
    operation's values, by default the machine's memory. sources: by value, the input or node that determines its number
    of samples. repeated: values with one row for all samples, by name. made: results of operations outside loops, by
    node. around: for each enclosing loop, the values that it carries at its start, and its iterations. steps, samples,
    call_bytes, seconds: see ``Demand``.
    """

    parts: Mapping[str, Part] = field(default_factory=dict)
    limit: int | None = None
    code: str = REFUSED
    limit_code: str = "over-limit"
    sources: dict[str, ValueSource] = field(default_factory=dict)
    repeated: dict[str, SampleCount] = field(default_factory=dict)
    made: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    around: list[tuple[Mapping[str, Any], int]] = field(default_factory=list)
    steps: int = 0
    samples: int = 1
    call_bytes: int = 0
    seconds: float = 0.0

    def measure(self, earlier: Iterable[str]) -> Demand:
        """The resources of the run. earlier: the names of values that were there before it."""
        names = self.values.keys() - set(earlier)
        nbytes = sum(getattr(self.values[name], "nbytes", 0) for name in names)
        return Demand(self.steps, self.samples, nbytes, self.call_bytes, self.seconds)

    def host(self, operation: Operation) -> Mapping[str, Any]:
        """The results of a host operation if they are cheap; otherwise their shape, if a rule gives it."""
        OPERATIONS[operation.op].check_settings(operation.settings)  # it may not be called in a rehearsal
        inputs = {port: self.values.read(name) for port, name in operation.inputs.items()}
        declared, rule_arguments = OPERATIONS[operation.op], {}
        shape: Shape | None = None
        if declared.shape is not None:
            ports, defaults = build_arguments(inputs), declared.signature.parameters
            rule_arguments = {
                name: ports[name] if name in ports else operation.settings.get(name, defaults[name].default)
                for name in signature(declared.shape).parameters
            }
            if not any(_holds_unknown(value) for value in rule_arguments.values()):
                sides = declared.shape(**rule_arguments)
                shape = None if sides is None or None in sides else cast(Shape, sides)
        if shape is not None and (reason := find_memory_problem([ShapeOnly(shape)], self.limit)) is not None:
            raise SettingError(_find_largest(rule_arguments), reason)
        if all(map(self.is_known, inputs.values())) and operation.op not in _RANDOM_OPERATIONS:
            results = self.compute(operation, inputs)
            if not self.around:
                self.made[operation.node] = results
        elif shape is not None and operation.outputs == (operation.node,):
            results = Values({operation.node: ShapeOnly(shape)})
        else:
            results = Values(dict.fromkeys(operation.outputs, UNKNOWN))
        self._name_sources(operation, results)
        return results

    def is_known(self, value: Any) -> bool:
        """Whether a value is known, and not only its shape."""
        return not isinstance(value, (Unknown, ShapeOnly))

    def choose(self, operation: Operation) -> Mapping[str, Any]:
        """The values of the branch that a choice takes; unknown if its selector is."""
        when = Choice.of(operation).when
        if when is None or self.is_known(self.values.read(when)):
            return super().choose(operation)
        return dict.fromkeys(operation.outputs, UNKNOWN)

    def find_form(self, operation: Operation) -> Operation:
        """The whole part, which needs the most."""
        return operation

    def part(self, operation: Operation) -> Mapping[str, Any]:
        """The shapes of a part's results. Raises ``ValueError`` for inputs that its graph does not take."""
        check_guards(operation, Values({name: item for name, item in self.values.items() if self.is_known(item)}))
        inputs = {name: self.values.read(source) for name, source in operation.inputs.items()}
        self._check_ranges(operation, inputs)
        if operation.node not in self.parts or any(isinstance(item, Unknown) for item in inputs.values()):
            return dict.fromkeys(operation.outputs, UNKNOWN)
        part = self.parts[operation.node]
        shaped = {name: item if isinstance(item, ShapeOnly) else np.asarray(item) for name, item in inputs.items()}
        self._check_batch(operation, part, shaped)
        sizes = axis_sizes(part, shaped)
        if self.around:
            self.samples = max(self.samples, sizes.get(BATCH, 1))
        smallest = {dim: 1 for tensor in part.inputs for dim in tensor.dims if isinstance(dim, str)}
        check_multiples(operation.settings.get(MULTIPLES, {}), {**smallest, **sizes})
        cost = estimate_cost(part, sizes)
        self.call_bytes = max(self.call_bytes, cost.nbytes)
        self.seconds += cost.seconds * prod(count for _, count in self.around)
        due = broadcast_shapes(part, shaped)
        for tensor, shape in zip(part.inputs, due, strict=True):
            check_broadcast(tensor, tuple(shaped[tensor.name].shape), shape)
        outputs: dict[str, Any] = {}
        for tensor in part.outputs:
            shape_out = _evaluate_shape(tensor.dims, sizes)
            outputs[tensor.name] = (
                UNKNOWN if shape_out is None else ShapeOnly(shape_out, np.dtype(tensor.dtype).itemsize)
            )
        results = [item for item in outputs.values() if isinstance(item, ShapeOnly)]
        if (reason := find_memory_problem([*map(ShapeOnly, due), *results], self.limit)) is not None:
            raise ValueError(reason)
        self._name_sources(operation, outputs)
        return outputs

    def _check_ranges(self, operation: Operation, inputs: Mapping[str, Any]) -> None:
        """Raise ``InputError`` for a known input of a part with a number out of its bounds."""
        ranges: Any = operation.settings.get(RANGES, {})
        for name, entry in ranges.items():
            bounds = parse_bounds(name, entry)
            if name in inputs and self.is_known(inputs[name]):
                numbers = np.ravel(inputs[name]).tolist()
                outside = next((number for number in numbers if not bounds.contains(number)), None)
                if outside is not None:
                    message = f"'{name}': expected numbers{bounds.describe()}; found {outside}"
                    raise InputError(self._source(operation.inputs[name]).param, message)

    def _check_batch(self, operation: Operation, part: Part, shaped: Mapping[str, Any]) -> None:
        """Check that per-sample inputs agree on the batch, and record the inputs that are broadcast to it."""
        rows = {
            item.name: SampleCount(int(shaped[item.name].shape[0]), *self._source(operation.inputs[item.name]))
            for item in part.inputs
            if item.dims[:1] == (BATCH,) and len(shaped[item.name].shape) == len(item.dims)
        }
        many = [name for name, item in rows.items() if item.count != 1]
        # A carried value determines the samples; the others must match it.
        many.sort(key=lambda name: all(operation.inputs[name] not in starts for starts, _ in self.around))
        if many:
            _check_counts(rows[many[0]], [rows[name] for name in many])
            self.repeated |= {operation.inputs[name]: rows[many[0]] for name, item in rows.items() if item.count == 1}

    def enter_loop(self, loop: Loop, body: Sequence[Operation]) -> Sequence[Any]:
        """The first item of a loop, whose iterations are counted, since all have the same shapes."""
        items = self.read_items(loop)
        count = 1
        if self.is_known(items):
            count = items if isinstance(items, int) else len(items)
            self.trips.begin(count)
            self.steps += 0 if self.around else count
        starts = {link: self.values.read(start) for link, start in loop.start.items()}
        self.sources |= {link: self._source(start) for link, start in loop.start.items()}
        self.around.append((starts, count))
        if not self.is_known(items):
            return [UNKNOWN]
        return range(min(count, 1)) if isinstance(items, int) else cast(Sequence[Any], items[:1])

    def leave_loop(self, loop: Loop, collected: Mapping[str, Sequence[Any]]) -> Mapping[str, Any]:
        """Check that no carried value grew: a loop keeps its initial number of samples.

        A number for each sample, such as the row of a sampler's table, may start as one for all.
        """
        starts, _ = self.around.pop()
        for link, start in starts.items():
            before, after = count_rows(start), count_rows(self.values.read(link))
            if link not in self.repeated or len(getattr(start, "shape", ())) == 1 or before is None or after is None:
                continue
            if after > before:
                _check_counts(SampleCount(before, *self._source(link)), [self.repeated[link]])
        return dict.fromkeys(collected, UNKNOWN)

    def _source(self, name: str) -> ValueSource:
        if name.startswith(PARAMS):
            value, param = self.values.get(name), name.removeprefix(PARAMS)
            many = f" ({len(value)} values)" if isinstance(value, (list, tuple)) else ""
            return ValueSource(f"'{param}'{many}", param)
        return self.sources.get(name, ValueSource(f"'{name}'"))

    def _name_sources(self, operation: Operation, results: Mapping[str, Any]) -> None:
        """Record the sources of values: an input with the same number of samples, or the operation itself."""
        for name, value in results.items():
            rows = count_rows(value)
            candidates = [
                source
                for source in operation.inputs.values()
                if rows != 1 and count_rows(self.values.get(source)) == rows
            ]
            # Prefer a parameter, which the user has set.
            candidates.sort(key=lambda source: not source.startswith(PARAMS) and source not in self.sources)
            self.sources[name] = self._source(candidates[0]) if candidates else ValueSource(f"'{operation.node}'")


_RANDOM_OPERATIONS = frozenset({"noise.gaussian"})


def _find_largest(rule_arguments: Mapping[str, Any]) -> str:
    """The setting with the largest number among those that determine a shape; "" if none is a number."""
    items = {name: value if isinstance(value, list) else [value] for name, value in rule_arguments.items()}
    sizes = {name: max((item for item in items[name] if isinstance(item, int)), default=0) for name in items}
    return max(sizes, key=lambda name: sizes[name], default="")


def _check_counts(samples: SampleCount, counts: Sequence[SampleCount]) -> None:
    """Raise ``InputError`` if values are neither for all samples nor one for each."""
    mismatch = find_mismatch(samples, counts)
    if mismatch is not None:
        raise InputError(mismatch.param or samples.param, describe_mismatch(samples, mismatch))


def check_multiples(multiples: Any, sizes: Mapping[str, int]) -> None:
    """Raise ``ValueError`` if an axis is not a multiple of the factor that a part was traced with."""
    if not isinstance(multiples, Mapping):
        raise ValueError(f"'{MULTIPLES}' of a part names axes; found {multiples!r:.80}")
    for axis, factor in multiples.items():
        if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
            raise ValueError(f"'{MULTIPLES}' of a part has whole numbers; found {factor!r:.80} for '{axis}'")
        if axis in sizes and (reason := find_multiple_problem((sizes[axis],), (0,), factor)) is not None:
            raise ValueError(f"'{axis}': {reason}")


def _evaluate_shape(dims: Sequence[int | str], sizes: Mapping[str, int]) -> Shape | None:
    """Evaluate a shape for these sizes of axes; None if the size of an axis is unknown."""
    all_sizes = {BATCH: 1, **sizes}
    shape = []
    for dim in dims:
        if isinstance(dim, str):
            try:
                dim = all_sizes[dim] if dim in all_sizes else evaluate_size(dim, all_sizes)
            except ValueError:
                return None
        shape.append(dim)
    return tuple(shape)


def _holds_unknown(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_unknown, value.values()))
    if isinstance(value, list):
        return any(map(_holds_unknown, value))
    return isinstance(value, Unknown)


MAX_TEXT = 200

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True)
class Axis:
    """An axis of an input of the graph."""

    input: str
    index: int


@dataclass(frozen=True)
class Size:
    """A size expression. text: a number, or e.g. ``height/4``. of: for each name, axes; its value is their maximum."""

    text: str
    of: Mapping[str, tuple[Axis, ...]]

    def value(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """Evaluate the size for shapes of the inputs. Raises ``ValueError`` for an invalid expression."""
        return evaluate_size(
            self.text, {name: max(shapes[axis.input][axis.index] for axis in axes) for name, axes in self.of.items()}
        )


def evaluate_size(text: str, names: Mapping[str, int]) -> int:
    """Evaluate a size expression. Raises ``ValueError`` if it is invalid or its value is not a positive integer."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"expected a size of at most {MAX_TEXT} characters; found {len(text)}")
    try:
        value = _value(ast.parse(text, mode="eval").body, names)
    except (SyntaxError, KeyError, ZeroDivisionError, RecursionError) as error:
        raise ValueError(f"'{text}' is not a size ({error})") from None
    if value != int(value) or value < 1:
        raise ValueError(f"'{text}' is {value} for these inputs, where a whole size is due")
    return int(value)


def _value(node: ast.expr, names: Mapping[str, int]) -> Any:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return names[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left, names), _value(node.right, names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "floor":
        if len(node.args) == 1 and not node.keywords:
            return floor(_value(node.args[0], names))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, names)
    raise KeyError(ast.unparse(node))

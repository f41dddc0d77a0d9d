"""A run without its graphs: what would go wrong in it, found before anything is computed.

Host operations whose inputs are known are computed, since they are cheap; those that draw or make something large, and
the parts, are followed by their shapes. What a bundle does not say stays unknown, and is left to the run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np

from guidegraph_runtime.admission import (
    Rows,
    Shape,
    Sized,
    batch_problem,
    count_of,
    memory_problem,
    multiple_problem,
)
from guidegraph_runtime.choices import Choice, has_choices
from guidegraph_runtime.fitting import axis_sizes, check_spread, due_shapes
from guidegraph_runtime.host import OPERATIONS, SHAPES
from guidegraph_runtime.loops import Loop
from guidegraph_runtime.manifest_types import Operation, Part
from guidegraph_runtime.memory import Memory, arguments
from guidegraph_runtime.names import BATCH, MULTIPLES
from guidegraph_runtime.plan import PlanRun, check_fields
from guidegraph_runtime.single_shapes import size_of

REFUSED = "refused"


class Unknown:
    """A value of which nothing is known before the run."""


UNKNOWN = Unknown()


@dataclass
class Rehearsal(PlanRun):
    """One rehearsal of a plan. Raises ``BundleError`` with the code ``refused`` or ``over-limit``.

    parts: by name. limit: bytes that one operation's values may take, in place of the machine's memory. drawn: nodes of
    operations that are not computed whatever is known. made: what operations outside of loops gave, by node.
    """

    parts: Mapping[str, Part] = field(default_factory=dict)
    limit: int | None = None
    code: str = REFUSED
    limit_code: str = "over-limit"
    sources: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, Rows] = field(default_factory=dict)
    made: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    depth: int = 0

    def _host(self, operation: Operation) -> None:
        if operation.op not in OPERATIONS:
            raise ValueError("this runtime has no such operation: install the guidegraph-runtime of the export")
        inputs = {port: self.memory.read(name) for port, name in operation.inputs.items()}
        shape = self._shape(operation, inputs)
        if shape is not None and (reason := memory_problem([Sized(shape)], self.limit)) is not None:
            raise ValueError(reason)
        known = not any(isinstance(one, (Unknown, Sized)) for one in inputs.values())
        if known and operation.op not in _DRAWN:
            found = self._computed(operation, inputs)
            if not self.depth:
                self.made[operation.node] = found
        elif shape is not None and operation.outputs == (operation.node,):
            found = Memory({operation.node: Sized(shape)})
        else:
            found = Memory(dict.fromkeys(operation.outputs, UNKNOWN))
        self._name_sources(operation, found)
        self.memory.update(found)

    def _shape(self, operation: Operation, inputs: Mapping[str, Any]) -> Shape | None:
        """The shape of what an operation gives, where its rule and what is known say it."""
        rule = SHAPES.get(operation.op)
        if rule is None:
            return None
        ports = arguments(inputs)
        defaults = signature(OPERATIONS[operation.op]).parameters
        given = {
            name: ports[name] if name in ports else operation.settings.get(name, defaults[name].default)
            for name in signature(rule).parameters
        }
        if any(_holds_unknown(one) for one in given.values()):
            return None
        return rule(**given)

    def is_known(self, value: Any) -> bool:
        """Whether a value is there, and not only its shape."""
        return not isinstance(value, (Unknown, Sized))

    def _choose(self, operation: Operation) -> None:
        when = Choice.of(operation).when
        if when is None or self.is_known(self.memory.read(when)):
            super()._choose(operation)
        else:
            self.memory.update(dict.fromkeys(operation.outputs, UNKNOWN))

    def _part(self, operation: Operation) -> None:
        known = {name: value for name, value in self.memory.items() if not isinstance(value, (Unknown, Sized))}
        check_fields(operation, Memory(known))
        given = {name: self.memory.read(at) for name, at in operation.inputs.items()}
        if operation.node not in self.parts or any(isinstance(one, Unknown) for one in given.values()):
            self.memory.update(dict.fromkeys(operation.outputs, UNKNOWN))
            return
        part = self.parts[operation.node]
        shaped = {name: one if isinstance(one, Sized) else np.asarray(one) for name, one in given.items()}
        self._check_batch(operation, part, shaped)
        sizes = axis_sizes(part, shaped)
        check_multiples(operation.settings.get(MULTIPLES, {}), sizes)
        due = due_shapes(part, shaped)
        for tensor, shape in zip(part.inputs, due, strict=True):
            check_spread(tensor, tuple(shaped[tensor.name].shape), shape)
        found: dict[str, Any] = {}
        for tensor in part.outputs:
            shape_out = _evaluated(tensor.dims, sizes)
            found[tensor.name] = UNKNOWN if shape_out is None else Sized(shape_out, np.dtype(tensor.dtype).itemsize)
        results = [one for one in found.values() if isinstance(one, Sized)]
        if (reason := memory_problem([*map(Sized, due), *results], self.limit)) is not None:
            raise ValueError(reason)
        self._name_sources(operation, found)
        self.memory.update(found)

    def _check_batch(self, operation: Operation, part: Part, shaped: Mapping[str, Any]) -> None:
        """Inputs that go with each sample agree; what is repeated for them is noted."""
        rows = {
            one.name: Rows(int(shaped[one.name].shape[0]), self._source(operation.inputs[one.name]))
            for one in part.inputs
            if one.dims[:1] == (BATCH,) and len(shaped[one.name].shape) == len(one.dims)
        }
        many = [name for name, one in rows.items() if one.count != 1]
        # What is carried holds the samples; the others go with them.
        many.sort(key=lambda name: operation.inputs[name] not in self._carried)
        if many and (reason := batch_problem(rows[many[0]], [rows[name] for name in many])) is not None:
            raise ValueError(reason)
        if many:
            self.repeated |= {operation.inputs[name]: rows[many[0]] for name, one in rows.items() if one.count == 1}

    def _loop(self, operation: Operation) -> None:
        loop, memory, body = Loop.of(operation), self.memory, operation.body or ()
        over = memory.read(loop.over) if isinstance(loop.over, str) else loop.over
        if not isinstance(over, (Unknown, Sized)):
            self.trips.begin(over if isinstance(over, int) else len(over))
        rows = range(over) if isinstance(over, int) else over
        starts = {at: memory.read(start) for at, start in loop.start.items()}
        self.sources |= {at: self._source(start) for at, start in loop.start.items()}
        memory.update(starts)
        known = not isinstance(rows, (Unknown, Sized))
        if not known or len(rows):
            memory[loop.index] = 0
            row = UNKNOWN if not known else rows[:1] if isinstance(rows, np.ndarray) and rows.ndim == 1 else rows[0]
            memory[loop.item] = row
            outer, self._carried = self._carried, self._carried | starts.keys()
            self.depth += 1
            self.run(self.demanded(body, [*loop.next.values(), *loop.collect.values()]) if has_choices(body) else body)
            self.depth -= 1
            self._carried = outer
            for at, after in loop.next.items():
                self._check_growth(at, starts[at], memory.read(after))
            memory.update({at: memory.read(after) for at, after in loop.next.items()})
        memory.update({name: memory.read(at) for name, at in loop.result.items()})
        memory.update(dict.fromkeys(loop.collect, UNKNOWN))

    def _check_growth(self, at: str, start: Any, after: Any) -> None:
        """What a loop carries is not repeated for a larger batch: there are as many samples as it starts with."""
        before, now = count_of(start), count_of(after)
        if at in self.repeated and before is not None and now is not None and now > before:
            samples = Rows(before, self._source(at))
            raise ValueError(batch_problem(samples, [self.repeated[at]]))

    _carried: frozenset[str] = frozenset()

    def _source(self, name: str) -> str:
        if name.startswith("params."):
            value = self.memory.get(name)
            many = f" ({len(value)} values)" if isinstance(value, (list, tuple)) else ""
            return f"'{name.removeprefix('params.')}'{many}"
        return self.sources.get(name, f"'{name}'")

    def _name_sources(self, operation: Operation, found: Mapping[str, Any]) -> None:
        """What says how many samples values are for: the input that is for as many, or the operation itself."""
        for name, value in found.items():
            rows = count_of(value)
            like = [at for at in operation.inputs.values() if rows != 1 and count_of(self.memory.get(at)) == rows]
            # A list of a parameter, if there is one, is what a person gave.
            like.sort(key=lambda at: not at.startswith("params.") and at not in self.sources)
            self.sources[name] = self._source(like[0]) if like else f"'{operation.node}'"


_DRAWN = frozenset({"noise.gaussian"})


def check_multiples(multiples: Any, sizes: Mapping[str, int]) -> None:
    """Axes are multiples of what a part was traced for. Raises ``ValueError``."""
    if not isinstance(multiples, Mapping):
        raise ValueError(f"'{MULTIPLES}' of a part names axes; found {multiples!r:.80}")
    for axis, factor in multiples.items():
        if not isinstance(factor, int) or isinstance(factor, bool) or factor < 1:
            raise ValueError(f"'{MULTIPLES}' of a part has whole numbers; found {factor!r:.80} for '{axis}'")
        if axis in sizes and (reason := multiple_problem((sizes[axis],), (0,), factor)) is not None:
            raise ValueError(f"'{axis}': {reason}")


def changed_after(plan: Sequence[Operation], nodes: Collection[str]) -> set[str]:
    """The nodes of a plan's operations outside of loops that depend on some of them, these included."""
    names: set[str] = set()
    changed: set[str] = set()
    for operation in plan:
        if operation.node in nodes or not names.isdisjoint(operation.inputs.values()) or operation.body is not None:
            changed.add(operation.node)
            names.update(operation.outputs)
    return changed


def _evaluated(dims: Sequence[int | str], sizes: Mapping[str, int]) -> Shape | None:
    """A shape whose axes have these sizes; None where an axis is named by nothing that is known."""
    known = {BATCH: 1, **sizes}
    found = []
    for dim in dims:
        if isinstance(dim, str):
            try:
                dim = known[dim] if dim in known else size_of(dim, known)
            except ValueError:
                return None
        found.append(dim)
    return tuple(found)


def _holds_unknown(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_unknown, value.values()))
    if isinstance(value, list):
        return any(map(_holds_unknown, value))
    return isinstance(value, Unknown)

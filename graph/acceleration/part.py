"""A planned part of a block, its function of flat tensors, and its digest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from guidegraph.graph.acceleration.part_values import FlatValue, Reading, can_fit, fit_value
from guidegraph.graph.acceleration.parts import StepGroup
from guidegraph.graph.execution.watched_sizes import Decisive, LoopWatch, Measure, use_watch
from guidegraph.graph.export.partition.example_values import ItemType
from guidegraph.graph.export.partition.leaves import tensor_leaves
from guidegraph.graph.export.partition.subgraph import ExampleValue, PartPlan, plan_part
from guidegraph.graph.ir import Call, find_loops, list_calls, walk, walk_calls
from guidegraph.graph.planning.digest import (
    companion_digests,
    digest_strings,
    source_digest,
    spec_digest,
    value_digest,
)
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import BlockPlan, Step
from guidegraph.graph.sources import Carry, Item, Literal, Output, Param, Source, list_sources
from guidegraph.graph.types import ANY, PortType


@dataclass(frozen=True)
class LiftedNumber:
    """A number of a parameter that is an input of the part, so that other values need no other graph."""

    source: Param
    value: float


@dataclass(frozen=True)
class WatchedSize:
    """A size that a call of the part watches (``watch_size``): the position of the call, the limit and the message."""

    call: int
    limit: float
    message: str
    has_decisive: bool


@dataclass(frozen=True)
class Part:
    """Calls that run together. reads: the values from outside. results: those that other steps read.

    numbers: literals that became inputs, after ``reads``.
    """

    steps: tuple[Step, ...]
    calls: tuple[Call, ...]
    reads: tuple[Reading, ...]
    results: tuple[Reading, ...]
    numbers: tuple[LiftedNumber, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(f"nodes.{call.key}" for call in self.calls)

    def read(self, reading: Reading, slots: Sequence[Any]) -> Any:
        """The value of one of ``reads``, with the sizes of the others if it has none of its own yet.

        Raises ``NodeError``.
        """
        value = slots[reading.slot]
        if not can_fit(value):
            return value
        by_source = {other.source: slots[other.slot] for other in self.reads}
        return fit_value(value, reading, self.calls, by_source)


@dataclass(frozen=True)
class PartExample:
    """The inputs and results of a call of a part in torch.

    values: of ``reads``; flat: the same, as tensors. tensors: the inputs of its function, which are the tensors of
    ``flat`` and then the ``numbers``. results: the values of ``results``.
    """

    values: Sequence[Any]
    flat: Sequence[FlatValue]
    tensors: Sequence[Any]
    results: Sequence[Any]


def make_part(group: StepGroup, block: BlockPlan, plan: Plan, *, lift: bool, single: bool = False) -> Part:
    """The part of a group of steps. lift: numbers that the workflow's parameters set become inputs.

    single: a step of the top level, all of whose results are kept, as a cache may take them.
    """
    kinds = collect_types(plan)
    slot_of: dict[Source, int] = dict(block.inputs)
    for step in block.steps:
        slot_of.update(zip(step.outputs(), step.outs, strict=True))
    calls, numbers = lift_numbers(list_calls(group.ops), plan) if lift else (list_calls(group.ops), [])
    made = {Output(call.key, name) for call in calls for name in call.outputs}
    lifted = {number.source for number in numbers}
    outside = dict.fromkeys(
        source
        for call in calls
        for source in call.sources()
        if source not in made and source not in lifted and not isinstance(source, Literal)
    )
    own_steps = {id(step) for step in group.steps}
    slots_read = {slot for step in block.steps if id(step) not in own_steps for slot in step.reads}
    slots_read |= set(block.results.values())
    results = [Output(call.key, name) for call in calls for name in call.outputs]

    def read(source: Source) -> Reading:
        return Reading(source, slot_of[source], kinds.get(source))

    return Part(
        group.steps,
        tuple(calls),
        tuple(map(read, outside)),
        tuple(read(source) for source in results if single or slot_of[source] in slots_read),
        tuple(numbers),
    )


def collect_types(plan: Plan) -> dict[Source, PortType]:
    """The types of the values in a plan that are known before the run."""
    kinds: dict[Source, PortType] = {}
    for op in walk(plan.ops):
        kinds.update({Output(op.key, name): kind for name, kind in op.outputs.items()})
    for loop in find_loops(walk(plan.ops)).values():
        kinds.update({Carry(loop.key, name): loop.outputs.get(name, ANY) for name in loop.carry})
        kinds[Item(loop.key)] = PortType((ItemType,))
    return kinds


def lift_numbers(calls: Sequence[Call], plan: Plan) -> tuple[list[Call], list[LiftedNumber]]:
    """The calls with inputs in place of those literals that a parameter of the workflow set to a number."""
    unbound = {call.key: call for call in walk_calls(plan.graph.ops)}
    numbers: list[LiftedNumber] = []

    def lift(call: Call, name: str) -> Source | None:
        before = unbound.get(call.key)
        declared = before.argument(name) if before is not None else None
        value, port = call.argument(name), call.spec.ports.get(name)
        if not (isinstance(declared, Param) and isinstance(value, Literal) and isinstance(value.value, float)):
            return None
        if port is None or not (float in port.type.alternatives or port.type.is_any):
            return None
        source = Param(f"{len(numbers)}")
        numbers.append(LiftedNumber(source, value.value))
        return source

    changed = []
    for call in calls:
        inputs = {name: lift(call, name) or sources for name, sources in call.inputs.items()}
        settings = {name: lift(call, name) or sources for name, sources in call.settings.items()}
        changed.append(replace(call, inputs=inputs, settings=settings))
    return changed, numbers


def part_key(part: Part, flat: Sequence[FlatValue], environment: Sequence[str], device_key: str) -> str:
    """The digest of everything that the graph of a part depends on, except for the sizes of its inputs.

    flat: the values of ``reads``. environment: names and versions of the packages that make and run the graph.
    """
    labels: dict[Source, str] = {reading.source: f"read {i}" for i, reading in enumerate(part.reads)}
    labels |= {number.source: f"number {i}" for i, number in enumerate(part.numbers)}
    labels |= {Output(c.key, name): f"call {i} {name}" for i, c in enumerate(part.calls) for name in c.outputs}
    texts = [*environment, source_digest(__name__)]
    for call in part.calls:
        texts.append(spec_digest(call.spec, device_key))
        for name, sources in call.arguments():
            texts.append(f"argument {name}")
            for source in list_sources(sources):
                texts.append(value_digest(source.value) if isinstance(source, Literal) else labels[source])
        for name in call.settings if call.spec.path_ports else ():
            texts += [
                text for pair in companion_digests(call.spec.settings[name], call.settings[name]) for text in pair
            ]
    for reading, value in zip(part.reads, flat, strict=True):
        described = [f"{tensor.dtype} {tensor.ndim}" for tensor in value.tensors]
        texts.append(f"{reading.kind} {value.guard} {described}")
    texts += [labels[result.source] for result in part.results]
    return digest_strings(*texts)


@dataclass
class _SizeRecorder(LoopWatch):
    """Collects the sizes that the calls of a part watch while it is traced, as further outputs of its graph.

    position: of the current call in the part.
    """

    position: int = 0
    sizes: list[tuple[Any, Any]] = field(default_factory=list)
    described: list[WatchedSize] = field(default_factory=list)

    def add(
        self, value: Any, limit: float, message: str, decisive: Decisive | None, measure: Measure | None = None
    ) -> None:
        size = value if measure is None else measure(value)
        self.sizes.append((size, None if decisive is None else decisive()))
        self.described.append(WatchedSize(self.position, float(limit), message, decisive is not None))

    def tensors(self) -> Iterator[Any]:
        for size, decisive in self.sizes:
            yield size
            if decisive is not None:
                yield decisive


def plan_function(part: Part, example: PartExample, *, watches: bool = True) -> tuple[PartPlan, list[WatchedSize]]:
    """The part as a function of flat tensors, and the sizes that it watches, which are its last outputs.

    watches: return the sizes. Raises ``ValueError`` for a result that no graph returns.
    """
    readings = [*zip(part.reads, example.values, example.flat, strict=True)]
    examples = [
        ExampleValue(reading.source, f"in{i}", value, reading.kind)
        for i, (reading, value, described) in enumerate(readings)
        if not described.constant
    ]
    examples += [ExampleValue(n.source, f"number{i}", n.value, None) for i, n in enumerate(part.numbers)]
    constants = {reading.source: value for reading, value, described in readings if described.constant}
    returned = [
        ExampleValue(reading.source, f"out{i}", value, reading.kind)
        for i, (reading, value) in enumerate(zip(part.results, example.results, strict=True))
    ]
    for result in returned:
        if not tensor_leaves(result.value):
            raise ValueError(f"a node outside of the part reads {type(result.value).__name__} of it, and not a tensor")
    if not watches:
        return plan_part("part", part.calls, examples, constants, returned, in_loop=True), []
    recorder = _SizeRecorder(set())
    calls = [_record_call(recorder, i, call) for i, call in enumerate(part.calls)]
    return _return_sizes(plan_part("part", calls, examples, constants, returned, in_loop=True), recorder)


def _return_sizes(plan: PartPlan, recorder: _SizeRecorder) -> tuple[PartPlan, list[WatchedSize]]:
    """The plan with the recorded sizes as its last outputs, and their descriptions.

    Raises ``ValueError`` if a number in the results becomes a tensor in a graph.
    """
    inner = plan.function

    def function(*tensors: Any) -> tuple[Any, ...]:
        recorder.sizes.clear()
        recorder.described.clear()
        with use_watch(recorder):
            outputs = inner(*tensors)
        return (*outputs, *recorder.tensors())

    outputs = function(*(part_input.example for part_input in plan.inputs))  # to learn what it watches
    described = list(recorder.described)
    extra = tuple(f"watched{i}" for i, _ in enumerate(recorder.tensors()))
    if len(outputs) > len(plan.outputs) + len(extra):
        raise ValueError("a node outside of the part reads a number that is computed in it, and not a tensor")
    return replace(plan, function=function, outputs=(*plan.outputs, *extra), cast=None), described


def _record_call(recorder: _SizeRecorder, position: int, call: Call) -> Call:
    function = call.spec.function

    def run(*args: Any, **by_name: Any) -> Any:
        recorder.position = position
        return function(*args, **by_name)

    return replace(call, spec=replace(call.spec, function=run))

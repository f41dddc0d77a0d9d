"""The steps of a plan, with numbered slots for values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guidegraph.graph.ir import Call, Literal, Loop, Op, Output, Source, Sources
from guidegraph.graph.node import Watch
from guidegraph.graph.planning.batch import BatchCall
from guidegraph.graph.values.output_check import OutputCheck, make_output_check
from guidegraph.graph.values.ownership import is_mutable

if TYPE_CHECKING:
    from guidegraph.graph.planning.plan import BodyPlan

Slot = int


@dataclass(slots=True)
class Step:
    """A call, a batch of calls or a loop, with slots for arguments and outputs.

    function: of the node; None for a loop or a batch. args: slots (or tuples of slots) of leading ports, passed by
    position. wired: ports and settings passed by name. constants: literal settings. outs: the slot of each output.
    checks: a type check for each output; None if any value fits. named: the outputs are a NamedTuple.
    plain: there are only positional arguments and constants, and nothing to check.
    validated: wired settings to validate. mutable: constants that are copied for each call. frees: slots that this step
    is the last to use. members: the calls of a batch.
    body: of a loop. closure: the sources that a loop reads from outside. watch: the process state to restore after it.
    """

    op: Call | Loop | BatchCall
    function: Callable[..., Any] | None
    args: tuple[Slot | tuple[Slot, ...], ...]
    wired: tuple[tuple[str, Slot | tuple[Slot, ...]], ...]
    constants: dict[str, Any]
    outs: tuple[Slot, ...]
    named: bool
    plain: bool
    validated: tuple[str, ...] = ()
    mutable: tuple[str, ...] = ()
    checks: tuple[OutputCheck | None, ...] = ()
    frees: tuple[Slot, ...] = ()
    members: tuple[Step, ...] = ()
    body: BodyPlan | None = None
    closure: tuple[tuple[Source, Slot], ...] = ()
    watch: Watch = "nothing"


@dataclass(slots=True)
class RegionPlan:
    """Steps over ``size`` slots. inputs: slots that are filled from outside of the region."""

    size: int
    constants: list[tuple[Slot, Any]]
    inputs: list[tuple[Source, Slot]]
    steps: list[Step]
    results: dict[Source, Slot]


class Slots:
    """The slots of a region by source."""

    def __init__(self) -> None:
        self.by_source: dict[Source, Slot] = {}
        self.constants: list[tuple[Slot, Any]] = []
        self.inputs: list[tuple[Source, Slot]] = []
        self.size = 0

    def new(self) -> Slot:
        self.size += 1
        return self.size - 1

    def of(self, source: Source) -> Slot:
        slot = self.by_source.get(source)
        if slot is None:
            slot = self.by_source[source] = self.new()
            if isinstance(source, Literal):
                self.constants.append((slot, source.value))
            else:
                self.inputs.append((source, slot))
        return slot

    def each(self, sources: Sources) -> Slot | tuple[Slot, ...]:
        return tuple(self.of(s) for s in sources) if isinstance(sources, tuple) else self.of(sources)

    def outputs(self, op: Op) -> tuple[Slot, ...]:
        slots = []
        for name in op.outputs:
            slot = self.by_source[Output(op.key, name)] = self.new()
            slots.append(slot)
        return tuple(slots)


def call_step(call: Call, slots: Slots) -> Step:
    """The step of a call. Leading ports are passed by position, which saves building a dict."""
    args: list[Slot | tuple[Slot, ...]] = []
    names = iter(call.spec.inputs)
    for name in names:
        if name not in call.inputs:
            break
        args.append(slots.each(call.inputs[name]))
    wired: list[tuple[str, Slot | tuple[Slot, ...]]] = [
        (name, slots.each(call.inputs[name])) for name in names if name in call.inputs
    ]
    constants: dict[str, Any] = {}
    validated: list[str] = []
    for name, source in call.settings.items():
        if isinstance(source, Literal):
            constants[name] = source.value
        else:
            wired.append((name, slots.each(source)))
            validated.append(name)
    mutable = tuple(name for name, value in constants.items() if is_mutable(value))
    plain = not wired and not any(isinstance(a, tuple) for a in args) and not call.checks and not mutable
    return Step(
        call,
        call.spec.function,
        tuple(args),
        tuple(wired),
        constants,
        slots.outputs(call),
        call.spec.named_outputs,
        plain,
        tuple(validated),
        mutable,
        tuple(map(make_output_check, call.outputs.values())),
        watch=call.spec.watch,
    )


def read_slots(step: Step) -> Iterable[Slot]:
    """The slots that a step reads."""
    for member in step.members:
        yield from read_slots(member)
    for slot in (*step.args, *(s for _, s in step.wired)):
        if isinstance(slot, tuple):
            yield from slot
        else:
            yield slot
    yield from (slot for _, slot in step.closure)


def free_after_last_use(steps: list[Step], kept: set[Slot]) -> None:
    """Set ``frees`` of each step: the slots, except for those ``kept``, that it is the last to use."""
    seen = set(kept)
    for step in reversed(steps):
        last = {slot for slot in (*read_slots(step), *step.outs) if slot not in seen}
        seen |= last
        step.frees = tuple(sorted(last))

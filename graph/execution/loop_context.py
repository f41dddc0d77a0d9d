"""The state of a run that its loops share, and the outputs of previews.

The interpreter of a block: fill its slots, execute its steps in order, read its results.

The top level, the body of a loop, the example run of an export and a traced part all run here. They differ in how a
step is executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from guidegraph.graph.cancellation import CancelToken
from guidegraph.graph.events import Observer
from guidegraph.graph.execution.cache import MemoryCache
from guidegraph.graph.execution.call import KeptJoins, node_error
from guidegraph.graph.execution.watched_sizes import LoopWatch
from guidegraph.graph.ir import Call
from guidegraph.graph.memory.weights import Mover
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import BlockPlan, Step
from guidegraph.graph.sources import Source
from guidegraph.graph.stopping.loop_state import LoopState, StopToken
from guidegraph.graph.trust.limits import LimitExceeded, TripCount
from guidegraph.graph.types import PortType
from guidegraph.graph.values.ownership import copy_value, is_mutable


class BlockAccelerator(Protocol):
    """Makes loops' bodies, and steps of the top level, faster."""

    def accelerate(self, block: BlockPlan, plan: Plan) -> BlockPlan:
        """The block with faster steps in place of some of its own."""
        ...

    def accelerate_top_level(self, block: BlockPlan, plan: Plan) -> Mapping[int, Callable[[list[Any]], None]]:
        """What computes some steps of a block of the top level from its slots, by the step's identity."""
        ...

    def release(self) -> None:
        """Drop the values of a loop that has ended."""
        ...

    def suspend(self, path: str) -> AbstractContextManager[None]:
        """A context in which nothing is accelerated, for the training loop at a path."""
        ...


@dataclass(frozen=True)
class Previewed:
    """One output of a preview: the key of its loop, the steps done, and the output's name, value and type."""

    loop: str
    step: int
    name: str
    value: Any
    type: PortType


@dataclass
class NodeTime:
    """How often a node in a loop's body was called, and the total seconds."""

    node: str
    calls: int = 0
    seconds: float = 0.0


@dataclass
class LoopContext:
    """The state of a run that its loops share.

    iterations: the current iteration of each enclosing loop, for errors. node_times: by the node's key, collected if
    the run has observers. warned: keys of the nodes that the run has warned about. watch: of the innermost loop.
    joins: what batches of the innermost loop's body joined in its earlier iterations, by the identity of their steps.
    on_preview: called with each output of a preview. accelerator: replaces steps of loops' bodies by faster ones.
    trips: counts the iterations of all loops. stop: stops the run after an iteration of a loop of the top level.
    """

    cancel: CancelToken
    observers: Sequence[Observer] = ()
    iterations: list[int] = field(default_factory=list)
    node_times: dict[str, NodeTime] = field(default_factory=dict)
    warned: set[str] = field(default_factory=set)
    watch: LoopWatch | None = None
    joins: dict[int, KeptJoins] | None = None
    on_preview: Callable[[Previewed], None] | None = None
    accelerator: BlockAccelerator | None = None
    trips: TripCount = field(default_factory=TripCount)
    stop: StopToken = field(default_factory=StopToken)

    def count_trips(self, step: Step, trips: int) -> None:
        """Count the trips of a loop that begins. Raises ``NodeError`` if the run would have too many."""
        try:
            self.trips.begin(trips)
        except LimitExceeded as error:
            raise node_error(step, error) from None

    def watch_call(self, call: Call | None) -> None:
        """Say which call runs next, for the sizes that it watches."""
        if self.watch is not None:
            self.watch.call = call

    def add_time(self, step: Step, seconds: float) -> None:
        """Add the time of a step that has run; the calls of a batch or part get equal shares."""
        ops = step.ops
        for op in ops:
            node_time = self.node_times.get(op.key)
            if node_time is None:
                node_time = self.node_times[op.key] = NodeTime(op.node_id)
            node_time.calls += 1
            node_time.seconds += seconds / len(ops)


@dataclass(frozen=True)
class Attachments:
    """Objects of this process that a run uses, in addition to its ``RunConfig``.

    memory: a cache in memory. observers: called with each event. on_output: called with name, value and type as soon as
    an output is complete. on_preview: called with each output of a training loop's previews.
    stop: stops the run between two iterations of a loop. resume: the state of a loop to go on from.
    mover: moves tensors to the device and back; by default torch does, on devices other than the CPU.
    """

    memory: MemoryCache | None = None
    observers: Sequence[Observer] = ()
    cancel: CancelToken = field(default_factory=CancelToken)
    on_output: Callable[[str, Any, PortType], None] | None = None
    on_preview: Callable[[Previewed], None] | None = None
    mover: Mover | None = None
    stop: StopToken = field(default_factory=StopToken)
    resume: LoopState | None = None


Execute: TypeAlias = "Callable[[Step, list[Any]], None]"
"""Executes a step: reads its arguments from the slots and stores its outputs in them."""


def fill_slots(block: BlockPlan, values: Mapping[Source, Any]) -> list[Any]:
    """The slots of a block before its first step. values: all that it reads from outside.

    Literals that can be changed in place are copied, since they outlive the run.
    """
    slots: list[Any] = [None] * block.size
    for slot, constant in block.constants:
        slots[slot] = copy_value(constant) if is_mutable(constant) else constant
    for source, slot in block.inputs:
        slots[slot] = values[source]
    return slots


def run_steps(block: BlockPlan, slots: list[Any], execute: Execute) -> None:
    """Execute the steps of a block in order. A value leaves its slot after the last step that uses it."""
    for step in block.steps:
        execute(step, slots)
        for slot in step.frees:
            slots[slot] = None


def interpret(block: BlockPlan, values: Mapping[Source, Any], execute: Execute) -> dict[Source, Any]:
    """The results of a block by source. values: all that it reads from outside."""
    slots = fill_slots(block, values)
    run_steps(block, slots, execute)
    return {source: slots[slot] for source, slot in block.results.items()}

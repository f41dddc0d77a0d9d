"""The top level of a run: how each of its steps is executed, with caches, events, checks and models in place."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from guidegraph.graph.errors import GuidegraphError, NodeError, PortError
from guidegraph.graph.events import ModelMoved, Origin
from guidegraph.graph.execution.cache import Caches
from guidegraph.graph.execution.call import invoke, node_error
from guidegraph.graph.execution.loop import run_step
from guidegraph.graph.execution.loop_context import Execute, LoopContext, run_steps
from guidegraph.graph.execution.run_record import Delivery, RunRecord, node_path
from guidegraph.graph.frozen_models import freeze
from guidegraph.graph.late import torch
from guidegraph.graph.memory.residency import FROM_OUTSIDE, Residency, ValueOrigin, move_models
from guidegraph.graph.memory.weights import Mover, TorchMover
from guidegraph.graph.planning.admission import WiringChecks
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import BlockPlan, Slot, Step
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.sources import Output, Param, format_link
from guidegraph.graph.trust.process_state import StateKeeper
from guidegraph.graph.types import describe_value
from guidegraph.graph.values.ownership import ValueState, find_states
from guidegraph_runtime.error_text import error_text
from guidegraph_runtime.machine.shortages import with_shortage


class IoThreads:
    """A context that runs io steps on threads. It yields futures by the step's id, and joins the threads at the end."""

    def __init__(self, steps: Sequence[Step], slots: list[Any]):
        self._steps = steps
        self._slots = slots
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="guidegraph-io") if steps else None

    def __enter__(self) -> dict[int, Future[Any]]:
        if self._pool is None:
            return {}
        futures = {}
        for step in self._steps:
            context = contextvars.copy_context()
            futures[id(step)] = self._pool.submit(context.run, _invoke_without_gradients, step, self._slots)
        return futures

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _invoke_without_gradients(step: Step, slots: list[Any]) -> None:
    with torch.no_grad():
        invoke(step, slots)


@dataclass(frozen=True)
class RunState:
    """The state that all blocks of a run's top level share. mover: ``None`` for torch's."""

    mover: Mover | None
    record: RunRecord
    caches: Caches
    context: LoopContext


class TopLevel:
    """Executes the steps of one block of the top level.

    wiring: checks that wait for values. delivery: hands out outputs. futures: of steps that run on threads, by the
    step's id. faster: what runs some steps in an accelerated run, by the step's id.
    """

    def __init__(self, state: RunState, plan: Plan, block: BlockPlan, wiring: WiringChecks, delivery: Delivery):
        self.record, self.caches, self.context = state.record, state.caches, state.context
        self.plan, self.block, self.wiring, self.delivery = plan, block, wiring, delivery
        self.placement = Placement(block, plan.config, state.mover, state.record.emit)
        self.is_cached, self.is_direct = state.caches.enabled, False
        self.keeper = None if self.record.observers else StateKeeper()
        self.futures: Mapping[int, Future[Any]] = {}
        self.faster: Mapping[int, Callable[[list[Any]], None]] = {}
        if state.context.accelerator is not None:
            self.faster = state.context.accelerator.accelerate_top_level(block, plan)

    def run(self, slots: list[Any]) -> None:
        """Run the block. Raises ``NodeError``, ``Cancelled``, and ``WorkflowError`` for wrong wiring."""
        try:
            with self.record.report_failure():
                self.placement.start(slots)
            with self._start_io(slots) as self.futures:
                self.is_direct = self.placement.residency is None and not self.futures and not self.faster
                run_steps(self.block, slots, self._execute)
            self.context.cancel.check()
        except BaseException:
            with suppress(Exception):  # report the first error
                self.placement.close()
            raise
        self.placement.close()

    def _start_io(self, slots: list[Any]) -> IoThreads:
        """Start the nodes marked ``io`` that depend on no other node on threads."""
        block = self.block
        steps: list[Step] = []
        if self.plan.graph.traits.io:
            steps = [step for step in block.steps if step.call is not None and step.call.spec.io]
            ready = {slot for slot, _ in block.constants} | {slot for _, slot in block.inputs}
            steps = [step for step in steps if ready.issuperset(step.reads) and self.placement.is_free(step)]
        return IoThreads(steps if len(steps) > 1 else [], slots)

    def _execute(self, step: Step, slots: list[Any]) -> None:
        self.context.cancel.check()
        if self.record.observers:
            self.record.start_nodes(step.ops)
        states = None
        for slot in step.reads:
            if not isinstance(slots[slot], PLAIN):
                states = input_states(step, slots)
                break
        started = time.perf_counter()
        try:
            if self.is_direct and step.body is None:  # as run_step does, without the cost of another call
                invoke(step, slots, None, self.keeper)
            elif self.placement.residency is not None:
                self.placement.run(step, slots, self._await)
            else:
                self._await(step, slots)
            seconds = time.perf_counter() - started
            if states:
                _check_inputs(step, slots, states)
        except NodeError as error:
            self.record.fail_node(error)
            raise
        finally:
            if self.context.node_times:
                self.record.report_node_times(self.context)
        for slot in step.outs:
            if not isinstance(slots[slot], PLAIN):
                freeze(slots[slot])
        self._finish(step, slots, seconds)

    def _finish(self, step: Step, slots: list[Any], seconds: float) -> None:
        """Record a step that has run, and hand on its values."""
        origins: Mapping[str, Origin] = self._keep(step, slots) if self.is_cached else {}
        for op in step.ops:
            origin = origins.get(op.key, "computed")
            self.record.finish_node(op, self.plan.digests[op.key], seconds, origin)
        if self.wiring.awaited:
            self.wiring.check(dict(zip(step.outputs(), (slots[slot] for slot in step.outs), strict=True)))
        for slot in step.outs:
            if slot in self.delivery.waiting:
                self._forget_state()
                self.delivery.deliver((slot,), slots)
        if self.placement.residency is not None:
            self._forget_state()
            with self.record.report_failure():
                self.placement.finish(step, slots)

    def _await(self, step: Step, slots: list[Any]) -> None:
        """Run a step, by its accelerator if it has one, or wait for the thread that runs it."""
        future, faster = self.futures.get(id(step)), self.faster.get(id(step))
        if future is None:
            if faster is None:
                run_step(step, slots, self.context, self.plan, self.keeper)
            else:
                self._forget_state()
                faster(slots)
            return
        try:
            future.result()
        except GuidegraphError:
            raise
        except Exception as error:
            raise node_error(step, error) from error

    def _forget_state(self) -> None:
        """Forget the state of the process, since other code than nodes may change it now."""
        if self.keeper is not None:
            self.keeper.forget()

    def _keep(self, step: Step, slots: list[Any]) -> Mapping[str, Origin]:
        """Put the values of a step into the caches, or compare them. Returns the origins of those compared."""
        values = [slots[slot] for slot in step.outs]
        origins: dict[str, Origin] = {}
        for op in step.ops:
            count, digest = len(op.outputs), self.plan.digests[op.key]
            computed = tuple(values[:count])
            if self.caches.expected:
                origins[op.key] = self.caches.check(op, digest, computed)
            self.caches.put(digest, computed)
            values = values[count:]
        return origins


def _check_inputs(step: Step, slots: list[Any], states: Mapping[Slot, ValueState]) -> None:
    """Raise ``NodeError`` if a step has changed an input in place."""
    try:
        check_unchanged(step, slots, states)
    except PortError as error:
        raise node_error(step, error) from error


PLAIN = (int, float, str, type(None))
"""Types of values that cannot be changed and hold no tensors."""


def input_states(step: Step, slots: Sequence[Any]) -> dict[Slot, ValueState]:
    """For each slot that a step reads, a state that changes if its tensors, lists or dicts change in place.

    Writes through NumPy or ``.data`` are not detected.
    """
    return find_states({slot: slots[slot] for slot in step.reads if not isinstance(slots[slot], PLAIN)})


def check_unchanged(step: Step, slots: Sequence[Any], before: Mapping[Slot, ValueState]) -> None:
    """Raise ``PortError`` if a step has changed an input in place: its other readers would see the change."""
    for slot, state in find_states({slot: slots[slot] for slot in before}).items():
        if state != before[slot]:
            culprit = " by a node in the loop's body" if step.body is not None else ""
            raise PortError(
                _find_port(step, slot),
                f"this input was changed in place{culprit} ({describe_value(slots[slot])}), and others read it too: "
                "work on a copy, such as x + y for x += y, x.clone() before x[…] = y, or list(values)",
            )


def _find_port(step: Step, slot: Slot) -> str:
    """The name of the port that reads a slot; for a loop, the link to it."""
    for call_step in (step, *step.members):
        if call_step.call is None:
            continue
        for name, slots in (*zip(call_step.call.spec.inputs, call_step.args, strict=False), *call_step.wired):
            if slot == slots or (isinstance(slots, tuple) and slot in slots):
                return name
    sources = [source for source, slots in step.closure if slots == slot]
    return next((format_link(source) for source in sources if isinstance(source, (Output, Param))), "over")


class Placement:
    """Brings the models of a block to the device: all at the start or, under a memory budget, step by step.

    residency: of the models, under a budget. position: of the next step.
    """

    def __init__(self, block: BlockPlan, config: RunConfig, mover: Mover | None, on_move: Callable[[ModelMoved], None]):
        self.block, self.config, self.mover, self.on_move = block, config, mover, on_move
        self.residency: Residency | None = None
        self.position = 0

    def start(self, slots: list[Any]) -> None:
        """Bring the models that the block starts with to the device; under a budget, only register them.

        Raises ``NodeError`` for a step whose models exceed the budget, and ``GuidegraphError`` if models cannot be
        moved.
        """
        block, config = self.block, self.config
        if self.mover is None and config.on_cpu:
            return
        constant_slots = [slot for slot, _ in block.constants]
        input_origins = {slot: (node_path(s.op), s.name) for s, slot in block.inputs if isinstance(s, Output)}
        try:
            mover = self.mover or TorchMover(config.device)
            if config.memory_budget is None:
                first_slots = (*constant_slots, *input_origins)
                values = [(input_origins.get(slot, FROM_OUTSIDE), slots[slot]) for slot in first_slots]
                move_models(values, mover, config.device, self.on_move)
                return
            origins = {**input_origins, **_list_origins(block)}
            self.residency = Residency(block, mover, config.memory_budget, config.device, origins, self.on_move)
            self.residency.start(slots, constant_slots, input_origins)
        except NodeError:
            raise
        except Exception as error:
            reason = with_shortage(error_text(error), error)
            raise GuidegraphError(f"models cannot be brought to '{config.device}': {reason}") from error

    def is_free(self, step: Step) -> bool:
        """Whether a step can run early on another thread: it neither reads nor makes models under a budget."""
        return self.residency is None or self.residency.is_free(step)

    def run(self, step: Step, slots: list[Any], compute: Execute) -> None:
        """Compute the next step with its models where it runs; only under a budget.

        It runs on the device, or on the CPU if it only makes or saves models.
        """
        residency = self.residency
        assert residency is not None
        try:
            residency.prepare(self.position)
            with residency.placement(self.position, self.config.dtype):
                compute(step, slots)
            residency.move_outputs(self.position, slots)
        except GuidegraphError:
            raise
        except Exception as error:
            raise node_error(step, error) from error

    def finish(self, step: Step, slots: Sequence[Any]) -> None:
        """Register the models that the step made, and release those that no later step reads; only under a budget.

        Raises ``NodeError``.
        """
        assert self.residency is not None
        try:
            self.residency.finish(self.position, slots)
        except NodeError:
            raise
        except Exception as error:
            raise node_error(step, error) from error
        self.position += 1

    def close(self) -> None:
        """Move all models off the device if there is a budget, also after an error."""
        if self.residency is not None:
            self.residency.close()


def _list_origins(block: BlockPlan) -> dict[int, ValueOrigin]:
    """The operation's path and the output's name for each slot that a step fills."""
    return {
        slot: (node_path(output.op), output.name)
        for step in block.steps
        for slot, output in zip(step.outs, step.outputs(), strict=True)
    }

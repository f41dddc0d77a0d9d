"""Running a flat plan: on demand, with caches, events and cancellation."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from guidegraph.graph import events
from guidegraph.graph.device_context import use_device
from guidegraph.graph.errors import Cancelled, GuidegraphError, NodeError
from guidegraph.graph.execution.cache import Values
from guidegraph.graph.execution.call import PortError, invoke, node_error
from guidegraph.graph.execution.choice_values import HeldValues, list_required_sources, list_sources_to_hold
from guidegraph.graph.execution.loop import run_loop
from guidegraph.graph.execution.loop_context import LoopContext
from guidegraph.graph.execution.mutation_checks import InputState, check_unchanged, input_states
from guidegraph.graph.execution.options import RunOptions, budget_problem, on_cpu
from guidegraph.graph.execution.prefetch import Prefetch
from guidegraph.graph.execution.result import RunResult
from guidegraph.graph.frozen_models import freeze
from guidegraph.graph.ir import Call, Choice, Graph, Literal, Op, Output, Source
from guidegraph.graph.memory.residency import FROM_OUTSIDE, Residency, ValueOrigin, move_models
from guidegraph.graph.memory.weights import TorchMover
from guidegraph.graph.planning.admission import check_machine
from guidegraph.graph.planning.batch import BatchCall
from guidegraph.graph.planning.choice_branches import find_branch_operations, find_next_choices
from guidegraph.graph.planning.digest import FRESH, is_pure
from guidegraph.graph.planning.plan import Plan, compile_plan
from guidegraph.graph.planning.steps import RegionPlan, Step, flatten_region, read_slots
from guidegraph.graph.resolution.wiring_checks import WiringChecks, order_for_checks
from guidegraph.graph.training.run_training import run_training
from guidegraph.graph.trust.file_checks import restrict_reads
from guidegraph.graph.trust.limits import DeadlineToken, enforce_limits
from guidegraph.graph.trust.policy import list_readable_folders
from guidegraph.graph.trust.process_state import guard_run
from guidegraph.graph.types import register_structured
from guidegraph.graph.values.ownership import copy_module, copy_value, is_mutable
from guidegraph_runtime.error_text import describe_error, error_text
from guidegraph_runtime.machine.shortages import with_shortage

__all__ = ["RunOptions", "RunResult", "budget_problem", "on_cpu", "run", "run_plan"]


def run(graph: Graph, values: Mapping[str, Any], options: RunOptions | None = None) -> RunResult:
    """Run a validated graph with checked parameter values.

    Raises ``NodeError`` if a node fails and ``Cancelled`` if the token was set; outputs that were complete by then have
    been passed to ``on_output``. Raises ``GuidegraphError`` for a memory budget on a device that cannot have one, and
    ``OutOfTime`` if the run takes longer than its limit in seconds.
    """
    options = options or RunOptions()
    device_key = f"{options.device} {options.dtype}"
    plan = compile_plan(
        graph, values, place=device_key, passes=options.passes, only=options.only, policy=options.policy
    )
    return run_plan(plan, options)


def run_plan(plan: Plan, options: RunOptions) -> RunResult:
    """Run a compiled plan. Raises the same errors as ``run``."""
    import torch

    if options.memory_budget is not None and (reason := budget_problem(options)):
        raise GuidegraphError(reason)
    register_structured()
    started = time.perf_counter()
    runner = _Runner(plan, options)
    folders = list_readable_folders(plan.bound, options.policy)
    if folders is not None and options.disk is not None:
        folders.append(options.disk.folder)
    with (
        use_device(options.device, options.dtype),
        enforce_limits(options.limits),
        restrict_reads(folders, plan.given_paths),
        torch.no_grad(),
        guard_run(),
    ):
        try:
            runner.execute()
        except Cancelled as error:
            runner.emit(events.RunFinished(error.status, time.perf_counter() - started))
            raise
        except BaseException as error:
            runner.emit(events.RunFinished("failed", time.perf_counter() - started))
            if isinstance(error, SystemExit):  # it would end the process with its own exit code
                raise GuidegraphError(f"code of a node or a plugin ended the run: {describe_error(error)}") from error
            raise
    runner.emit(events.RunFinished("done", time.perf_counter() - started))
    return runner.result


def _path(key: str) -> str:
    return f"nodes.{key}"


class _Runner:
    """The state of one run of the top level. held: values computed to make choices, by operation."""

    def __init__(self, plan: Plan, options: RunOptions):
        self.plan = plan
        self.options = options
        self.observers = tuple(options.observers)
        self.result = RunResult({}, {}, {}, {})
        seconds = options.limits.seconds
        self.cancel = options.cancel if seconds is None else DeadlineToken(options.cancel, seconds)
        self.context = LoopContext(self.cancel, run_training, self.observers, on_preview=options.on_preview)
        self.residency: Residency | None = None
        self.held = HeldValues()
        self.started = False

    def emit(self, event: events.Event) -> None:
        for observer in self.observers:
            observer(event)

    def execute(self) -> None:
        """Make the needed choices, each as soon as its value is computed, then compute the remaining operations."""
        while choices := find_next_choices(
            self.plan.ops, self._list_required_sources(), effects=self.options.only is None
        ):
            self._execute(choices)
            try:
                branches = {choice.key: self.held.choose_branch(choice, self.plan) for choice in choices}
            except NodeError as error:
                self._emit_failure(error)
                raise
            self.plan = self.plan.with_branches(branches)
        self._execute(())

    def _prunes(self) -> bool:
        return "prune" in self.plan.passes or self.options.only is not None

    def _list_required_sources(self) -> list[Source]:
        return list_required_sources(self.plan, self._prunes())

    def _execute(self, choices: Sequence[Choice]) -> None:
        """Compute the ``when`` values of choices or, without choices, all remaining operations."""
        ops, cached = self._split_by_cache([choice.when for choice in choices])
        check_machine(ops)
        ops = order_for_checks(ops)
        outputs = [source for source, _ in self.plan.outputs.values()]
        roots = list_sources_to_hold(ops, self.plan, self._prunes()) if choices else outputs
        region = flatten_region(ops, roots, self.plan.passes, pruned=True)
        if not self.started:
            total = len(self.plan.ops) if choices else len(ops) + len(cached)
            self.emit(events.RunStarted(self.plan.graph.name, total))
            self.started = True
        slots: list[Any] = [None] * region.size
        for slot, value in region.constants:
            slots[slot] = copy_value(value) if is_mutable(value) else value  # literals outlive the run
        self.held |= {key: values for key, (values, _) in cached.items()}
        for source, slot in region.inputs:
            slots[slot] = self.held.value(source, self.plan)
        for key, (_, origin) in cached.items():
            self._record(self.plan.ops[key], 0.0, origin)
        if not choices:
            self.held.clear()
        wiring = WiringChecks(ops, self.plan.bound)
        wiring.check({source: slots[slot] for source, slot in region.inputs})
        waiting = {} if choices else self._outputs_by_source()
        self._complete_outputs(waiting, [*(s for s, _ in region.inputs), *_literals(roots)], slots, region)
        try:
            self._start_residency(region, slots)
            self._walk(region, slots, waiting, wiring)
        except BaseException:
            with suppress(Exception):  # report the first error
                self._end_residency()
            raise
        self._end_residency()
        if choices:
            self.held.keep(ops, region, slots)

    def _walk(
        self, region: RegionPlan, slots: list[Any], waiting: dict[Source, list[str]], wiring: WiringChecks
    ) -> None:
        """Run the steps in order."""
        with self._prefetch(region, slots) as futures:
            for i, step in enumerate(region.steps):
                self.cancel.check()
                self._run_step(i, step, slots, futures)
                wiring.check(_step_values(step, slots))
                if waiting:
                    self._complete_outputs(
                        waiting, [Output(o.key, n) for o in _ops(step) for n in o.outputs], slots, region
                    )
                if self.residency is not None:
                    self._finish_residency(self.residency, i, step, slots)
                for slot in step.frees:
                    slots[slot] = None
        self.cancel.check()

    def _start_residency(self, region: RegionPlan, slots: list[Any]) -> None:
        """Move the models that the run starts with to the device; under a budget, only when they are read."""
        options = self.options
        if options.mover is None and on_cpu(options.device):
            return
        constant_slots = [slot for slot, _ in region.constants]
        input_origins = {slot: (_path(s.op), s.name) for s, slot in region.inputs if isinstance(s, Output)}
        try:
            mover = options.mover or TorchMover(options.device)
            if options.memory_budget is None:
                values = [
                    (input_origins.get(slot, FROM_OUTSIDE), slots[slot]) for slot in (*constant_slots, *input_origins)
                ]
                move_models(values, mover, options.device, self.emit)
                return
            origins = {**input_origins, **_output_origins(region.steps)}
            self.residency = Residency(region, mover, options.memory_budget, options.device, origins, self.emit)
            self.residency.start(slots, constant_slots, input_origins)
        except NodeError as error:
            self._emit_failure(error)
            raise
        except Exception as error:
            reason = with_shortage(error_text(error), error)
            raise GuidegraphError(f"models cannot be brought to '{options.device}': {reason}") from error

    def _finish_residency(self, residency: Residency, i: int, step: Step, slots: list[Any]) -> None:
        try:
            residency.finish(i, slots)
        except NodeError as error:
            self._emit_failure(error)
            raise
        except Exception as error:
            step_error = node_error(step, error)
            self._emit_failure(step_error)
            raise step_error from error

    def _end_residency(self) -> None:
        if self.residency is not None:
            self.residency.close()

    def _emit_failure(self, error: NodeError) -> None:
        self.emit(events.NodeFailed(error.path, error.node_id, str(error)))

    def _split_by_cache(
        self, deciding: Sequence[Source]
    ) -> tuple[dict[str, Op], dict[str, tuple[Values, events.Origin]]]:
        """The operations to compute, and the values from a cache; dependencies of cached values are not visited.

        deciding: compute only these sources, which choices depend on.
        """
        plan = self.plan
        sources = deciding or self._list_required_sources()
        needed_keys = {source.op for source in sources if isinstance(source, Output)}
        effects = not deciding and self.options.only is None
        in_branches = find_branch_operations(plan.ops) if effects else set()
        needed: list[Op] = []
        cached: dict[str, tuple[Values, events.Origin]] = {}
        for op in reversed([*plan.ops.values()]):
            has_effect = effects and op.key not in in_branches and not is_pure(op)
            if op.key in self.held or not (has_effect or op.key in needed_keys):
                continue
            cache_hit = self._lookup(plan.digests[op.key])
            if cache_hit:
                cached[op.key] = cache_hit
                continue
            needed.append(op)
            needed_keys.update(s.op for s in op.sources() if isinstance(s, Output))
        return {op.key: op for op in reversed(needed)}, dict(reversed(cached.items()))

    def _lookup(self, digest: str) -> tuple[Values, events.Origin] | None:
        if digest.startswith(FRESH):
            return None
        if self.options.memory is not None and (values := self.options.memory.get(digest)) is not None:
            return values, "memory"
        if self.options.disk is not None and (values := self.options.disk.get(digest, self.options.device)) is not None:
            if self.options.memory is not None:
                self.options.memory.put(digest, values)
            return values, "disk"
        return None

    def _prefetch(self, region: RegionPlan, slots: list[Any]) -> Prefetch:
        """Start the nodes marked ``io`` that depend on no other node on threads."""
        ready = {slot for slot, _ in region.constants} | {slot for _, slot in region.inputs}
        steps = [s for s in region.steps if isinstance(s.op, Call) and s.op.spec.io and ready.issuperset(read_slots(s))]
        if self.residency is not None:
            steps = [step for step in steps if self.residency.is_free(step)]
        return Prefetch(steps if len(steps) > 1 else [], slots)

    def _run_step(self, i: int, step: Step, slots: list[Any], futures: Mapping[int, Future[Any]]) -> None:
        for op in _ops(step) if self.observers else ():
            self.emit(events.NodeStarted(_path(op.key), _node_id(op)))
        states = input_states(step, slots)
        started = time.perf_counter()
        try:
            if self.residency is None:
                self._compute(step, slots, futures)
            else:
                self._compute_in_place(self.residency, i, step, slots, futures)
            seconds = time.perf_counter() - started
            self._check_inputs(step, slots, states)
        except NodeError as error:
            self._emit_failure(error)
            raise
        finally:
            self._emit_totals()
        for slot in step.outs:
            freeze(slots[slot])
        position = 0
        for op in _ops(step):
            op_slots = step.outs[position : position + len(op.outputs)]
            position += len(op.outputs)
            digest = self.plan.digests[op.key]
            if not digest.startswith(FRESH) and (self.options.memory is not None or self.options.disk is not None):
                values = tuple(slots[slot] for slot in op_slots)
                if self.options.memory is not None:
                    self.options.memory.put(digest, values)
                if self.options.disk is not None and values:
                    self.options.disk.put(digest, values)
            self._record(op, seconds, "computed")

    def _check_inputs(self, step: Step, slots: list[Any], states: Mapping[int, InputState]) -> None:
        try:
            check_unchanged(step, slots, states)
        except PortError as error:
            raise node_error(step, error) from error

    def _emit_totals(self) -> None:
        """Emit the total time of each node in a loop's body after the loop has ended or failed."""
        for key, node_time in self.context.node_times.items():
            self.emit(events.NodeTotals(_path(key), node_time.node, node_time.calls, node_time.seconds))
        self.context.node_times.clear()

    def _compute(self, step: Step, slots: list[Any], futures: Mapping[int, Future[Any]]) -> None:
        if step.body is not None:
            run_loop(step, slots, self.context, self.plan)
        elif (future := futures.get(id(step))) is not None:
            try:
                future.result()
            except GuidegraphError:
                raise
            except Exception as error:
                raise node_error(step, error) from error
        else:
            invoke(step, slots)

    def _compute_in_place(
        self, residency: Residency, i: int, step: Step, slots: list[Any], futures: Mapping[int, Future[Any]]
    ) -> None:
        """Compute a step with its models on the device, or on the CPU if it only makes or saves models."""
        try:
            residency.prepare(i)
            with residency.placement(i, self.options.dtype):
                self._compute(step, slots, futures)
            residency.move_outputs(i, slots)
        except GuidegraphError:
            raise
        except Exception as error:
            raise node_error(step, error) from error

    def _record(self, op: Op, seconds: float, origin: events.Origin) -> None:
        path = _path(op.key)
        digest = self.plan.digests[op.key]
        self.result.digests[path] = digest
        self.result.seconds[path] = seconds
        self.result.origins[path] = origin
        if self.observers:
            self.emit(events.NodeFinished(path, _node_id(op), seconds, origin, digest))

    def _outputs_by_source(self) -> dict[Source, list[str]]:
        waiting: dict[Source, list[str]] = {}
        for name, (source, _) in self.plan.outputs.items():
            waiting.setdefault(source, []).append(name)
        return waiting

    def _complete_outputs(
        self, waiting: dict[Source, list[str]], sources: Sequence[Source], slots: list[Any], region: RegionPlan
    ) -> None:
        for source in sources:
            for name in waiting.pop(source, ()):
                value = self._copy_output(slots[region.results[source]])
                self.result.outputs[name] = value
                if self.options.on_output is not None:
                    self.options.on_output(name, value, self.plan.outputs[name][1])
                self.emit(events.OutputReady(name))

    def _copy_output(self, value: Any) -> Any:
        """A copy of an output for the caller. Under a memory budget its weights are on the CPU."""
        host = None if self.residency is None else "cpu"
        return copy_value(value, lambda module: copy_module(module, host))


def _ops(step: Step) -> tuple[Op, ...]:
    op = step.op
    return op.calls if isinstance(op, BatchCall) else (op,)


def _step_values(step: Step, slots: Sequence[Any]) -> dict[Source, Any]:
    """The outputs of a step by source."""
    sources = [Output(op.key, name) for op in _ops(step) for name in op.outputs]
    return {source: slots[slot] for source, slot in zip(sources, step.outs, strict=True)}


def _node_id(op: Op) -> str:
    return op.spec.id if isinstance(op, Call) else "loop"


def _output_origins(steps: Sequence[Step]) -> dict[int, ValueOrigin]:
    """The operation's path and the output's name for each slot."""
    origins: dict[int, ValueOrigin] = {}
    for step in steps:
        names = [(_path(op.key), name) for op in _ops(step) for name in op.outputs]
        origins |= dict(zip(step.outs, names, strict=True))
    return origins


def _literals(sources: Sequence[Source]) -> list[Source]:
    return [s for s in sources if isinstance(s, Literal)]

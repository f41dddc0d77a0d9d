"""Running a flat plan: on demand, with caches, events and cancellation."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from guidegraph.graph import events
from guidegraph.graph.acceleration.requirements import check_acceleration
from guidegraph.graph.device_context import use_device
from guidegraph.graph.errors import Cancelled, GuidegraphError
from guidegraph.graph.execution.cache import Caches, DiskCache, Values
from guidegraph.graph.execution.loop_context import Attachments, LoopContext, fill_slots
from guidegraph.graph.execution.run_record import Delivery, RunRecord, RunResult
from guidegraph.graph.execution.top_level import RunState, TopLevel
from guidegraph.graph.hardware.policy import ComputePolicy
from guidegraph.graph.ir import Choice, Graph, Op
from guidegraph.graph.late import torch
from guidegraph.graph.memory.pause_collector import pause_collector, pause_for_import
from guidegraph.graph.planning.admission import WiringChecks, check_machine
from guidegraph.graph.planning.passes import (
    choose_branch,
    find_branch_operations,
    find_next_choices,
    make_effect_test,
)
from guidegraph.graph.planning.plan import Plan, compile_plan
from guidegraph.graph.planning.steps import BlockPlan
from guidegraph.graph.planning.topological_order import find_dependencies
from guidegraph.graph.run_config import RunConfig
from guidegraph.graph.sources import Output, Source
from guidegraph.graph.stopping.choose_loop import find_stop, resume_loop, stop_loop
from guidegraph.graph.trust.file_checks import restrict_reads
from guidegraph.graph.trust.limits import DeadlineToken, enforce_limits
from guidegraph.graph.trust.policy import list_readable_folders
from guidegraph.graph.trust.process_state import guard_run
from guidegraph.graph.types import register_structured
from guidegraph_runtime.error_text import describe_error


class HeldValues(dict[str, Values]):
    """The values of operations by key: a tuple of all outputs in order."""

    def value(self, source: Source, plan: Plan) -> Any:
        """The value of a source."""
        if not isinstance(source, Output):
            raise GuidegraphError(f"{source} is read outside of its loop")
        return self[source.op][list(plan.ops[source.op].outputs).index(source.name)]

    def choose_branch(self, choice: Choice, plan: Plan) -> str:
        """The branch that a choice takes by the held value of its ``when``. Raises ``NodeError`` if there is none."""
        return choose_branch(choice, self.value(choice.when, plan))

    def keep(self, ops: Mapping[str, Op], block: BlockPlan, slots: Sequence[Any]) -> None:
        """Hold the values of those operations whose outputs are all among the results of a block that has run."""
        for key, op in ops.items():
            sources = [Output(key, name) for name in op.outputs]
            if sources and all(source in block.results for source in sources):
                self[key] = tuple(slots[block.results[source]] for source in sources)


def list_required_sources(plan: Plan) -> list[Source]:
    """The sources that a run must compute: its outputs and, without pruning, all operations outside of branches."""
    outputs = [source for source, _ in plan.outputs.values()]
    if plan.config.prunes:
        return outputs
    in_branches = find_branch_operations(plan.ops)
    return outputs + [Output(key, "") for key in plan.ops if key not in in_branches]


def list_sources_to_hold(ops: Mapping[str, Op], plan: Plan) -> list[Source]:
    """All outputs of those operations that the rest of the plan reads, or that must not run again."""
    remaining = [op for key, op in plan.ops.items() if key not in ops]
    read = {source for op in remaining for source in op.sources()} | {source for source, _ in plan.outputs.values()}
    keys = {source.op for source in read if isinstance(source, Output)}
    held = [op for op in ops.values() if op.key in keys or not op.is_pure or not plan.config.prunes]
    return [Output(op.key, name) for op in held for name in op.outputs]


__all__ = ["Attachments", "RunConfig", "RunResult", "run", "run_plan"]


def run(
    graph: Graph, values: Mapping[str, Any], config: RunConfig | None = None, attachments: Attachments | None = None
) -> RunResult:
    """Run a validated graph with checked parameter values: the one way from settings to results.

    Raises ``NodeError`` if a node fails and ``Cancelled`` if the token was set; outputs that were complete by then have
    been passed to ``on_output``. Raises ``GuidegraphError`` for a memory budget on a device that cannot have one,
    ``OutOfTime`` if the run exceeds its limit in seconds, and ``LoopStopped`` at the requested stop.
    """
    config, attachments = config or RunConfig(), attachments or Attachments()
    if attachments.resume is not None:
        graph = resume_loop(graph, attachments.resume, checks_names=True)
    if config.stop_at:
        graph = stop_loop(graph, *find_stop(graph, values, config))
    return run_plan(compile_plan(graph, values, config), attachments)


def run_plan(plan: Plan, attachments: Attachments) -> RunResult:
    """Run a compiled plan. Raises the same errors as ``run``."""
    if "torch" not in sys.modules:  # at the first run of the process, without the collector
        with pause_for_import():
            import_module("torch")
    config = plan.config
    if attachments.mover is None and (reason := config.budget_problem):
        raise GuidegraphError(reason)
    if config.accelerate:
        check_acceleration(config)
    ComputePolicy(config.device).warn_of_emulation(config.dtype)
    register_structured()
    started = time.perf_counter()
    runner = _Runner(plan, attachments)
    folders = list_readable_folders(plan.bound, config.policy)
    if folders is not None and runner.caches.disk is not None:
        folders.append(runner.caches.disk.folder)
    with (
        use_device(config.device, config.dtype),
        enforce_limits(config.limits),
        restrict_reads(folders, plan.given_paths),
        torch.set_grad_enabled(False),
        guard_run(),
    ):
        try:
            runner.execute()
        except Cancelled as error:
            runner.record.finish_run(error.status, started)
            raise
        except BaseException as error:
            runner.record.finish_run("failed", started)
            if isinstance(error, SystemExit):  # it would end the process with its own exit code
                raise GuidegraphError(f"code of a node or a plugin ended the run: {describe_error(error)}") from error
            raise
    runner.record.finish_run("done", started)
    return runner.record.make_result()


class _Runner:
    """One run of the top level, block by block: one for each set of choices, and one for the rest.

    held: values that an earlier block computed, or that are in a cache.
    """

    def __init__(self, plan: Plan, attachments: Attachments):
        self.plan, self.config = plan, plan.config
        self.attachments = attachments
        seconds = self.config.limits.seconds
        cancel = attachments.cancel if seconds is None else DeadlineToken(attachments.cancel, seconds)
        self.record = RunRecord(attachments.observers)
        context = LoopContext(cancel, self.record.observers, on_preview=attachments.on_preview)
        context.stop = attachments.stop
        if self.config.accelerate:
            from guidegraph.graph.acceleration.accelerator import Accelerator

            context.accelerator = Accelerator(self.config, context, self.record.observers)
        if attachments.memory is not None:
            attachments.memory.begin(plan)
        disk = None if self.config.cache is None else DiskCache(self.config.cache.absolute())
        self.caches = Caches(attachments.memory, disk, self.config.device, self.config.cache_verify)
        self.state = RunState(attachments.mover, self.record, self.caches, context)
        self.held = HeldValues()

    def execute(self) -> None:
        """Make the needed choices, each as soon as its value is computed, then compute the remaining operations."""
        while choices := self._find_choices():
            self._execute(choices)
            with self.record.report_failure():
                branches = {choice.key: self.held.choose_branch(choice, self.plan) for choice in choices}
            self.plan = self.plan.with_branches(branches)
        self._execute(())

    def _find_choices(self) -> tuple[Choice, ...]:
        """The choices to make next; none if all are made."""
        if not self.plan.graph.traits.choices:
            return ()
        return find_next_choices(self.plan.ops, list_required_sources(self.plan), effects=self.config.only is None)

    def _execute(self, choices: Sequence[Choice]) -> None:
        """Compute the ``when`` values of choices or, without choices, all remaining operations."""
        ops, origins = self._split_by_cache([choice.when for choice in choices])
        if self.plan.graph.traits.requirements:
            check_machine(ops)
        outputs = {} if choices else self.plan.outputs
        plan = self.plan
        block = plan.flatten(ops, list_sources_to_hold(ops, plan)) if choices else plan.flatten_rest(ops)
        self.record.start_run(self.plan.graph.name, len(self.plan.ops) if choices else len(ops) + len(origins))
        slots = fill_slots(block, {source: self.held.value(source, self.plan) for source, _ in block.inputs})
        for key, origin in origins.items():
            self.record.finish_node(self.plan.ops[key], self.plan.digests[key], 0.0, origin)
        if not choices:
            self.held.clear()
        wiring = WiringChecks(ops if self.plan.graph.traits.checks else {}, self.plan.bound)
        wiring.check({source: slots[slot] for source, slot in block.inputs})
        delivery = Delivery(outputs, block, self.config, self.attachments, self.record)
        delivery.deliver([slot for _, slot in block.inputs] + [slot for slot, _ in block.constants], slots)
        TopLevel(self.state, self.plan, block, wiring, delivery).run(slots)
        if choices:
            self.held.keep(ops, block, slots)

    def _split_by_cache(self, deciding: Sequence[Source]) -> tuple[dict[str, Op], dict[str, events.Origin]]:
        """The operations to compute, and those in a cache, which are held; what only these depend on is left out.

        deciding: compute only these sources, which choices depend on.
        """
        if not deciding and not self.held and self.config.prunes and self.caches.misses(self.plan.digests.values()):
            return self.plan.ops, {}  # pruned when the plan was made: all are needed
        return self._find_needed(deciding)

    @pause_collector()
    def _find_needed(self, deciding: Sequence[Source]) -> tuple[dict[str, Op], dict[str, events.Origin]]:
        """As ``_split_by_cache``, where some operations may not be needed."""
        plan = self.plan
        origins: dict[str, events.Origin] = {}

        def list_reads(op: Op) -> Iterable[Source]:
            cached = self.caches.get(plan.digests[op.key])
            if cached is None:
                return op.sources()
            self.held[op.key], origins[op.key] = cached
            return ()

        effects = not deciding and self.config.only is None and plan.graph.traits.effects
        needed = find_dependencies(
            {key: op for key, op in plan.ops.items() if key not in self.held} if self.held else plan.ops,
            deciding or list_required_sources(plan),
            keep=make_effect_test(plan.ops) if effects else None,
            reads=list_reads if self.caches.enabled else None,
        )
        if origins:
            needed = {key: op for key, op in needed.items() if key not in origins}
        return needed, dict(reversed(origins.items()))

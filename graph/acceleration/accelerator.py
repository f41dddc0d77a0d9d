"""The accelerator of a run: it replaces parts of loops' bodies and steps of the top level by steps that run graphs."""

from __future__ import annotations

import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from guidegraph.graph.acceleration.compile_backend import CompileBackend
from guidegraph.graph.acceleration.export_part import Backend, PartRunner, explain_failure, is_lasting
from guidegraph.graph.acceleration.part import Part, PartExample, make_part
from guidegraph.graph.acceleration.part_values import (
    FlatValue,
    Reading,
    Unsuitable,
    compare,
    empty_copy,
    find_repeated,
    flatten_value,
    list_tensors,
)
from guidegraph.graph.acceleration.parts import (
    UNIDENTIFIED,
    StepGroup,
    calls_model,
    explain_outside,
    explain_pieces,
    group_steps,
    join_block,
    list_single_steps,
)
from guidegraph.graph.acceleration.store import Refusal
from guidegraph.graph.events import Observer, PartAccelerated
from guidegraph.graph.execution.call import invoke, node_error
from guidegraph.graph.execution.watched_sizes import Decisive
from guidegraph.graph.export.partition.leaves import rebuild
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import BlockPlan, Step
from guidegraph.graph.run_config import RunConfig

if TYPE_CHECKING:
    from torch import Tensor

    from guidegraph.graph.execution.loop_context import LoopContext

MOST_GRAPHS = 8
"""Sets of plain values for which a part has graphs in one run; with any others, it runs in torch."""

MOST_EXPORTS = 8
"""Exports of one part in one run, for sizes that its graphs do not take; at any others, it runs in torch."""

MOST_COMPARED = 256


@dataclass(frozen=True)
class Ready:
    """A graph that was compared with torch for some sizes and plain values.

    results: their structures, without data. repeated: the tensors among them that the graph has for each sample, and
    torch once.
    """

    runner: PartRunner
    results: tuple[Any, ...]
    repeated: tuple[bool, ...]


_compared: OrderedDict[tuple[Any, ...], tuple[weakref.ref[PartRunner], tuple[Any, ...], tuple[bool, ...]]] = (
    OrderedDict()
)
"""The graphs of this process that were compared, with ``Ready.results`` and ``repeated``, by part, device and sizes."""


def forget_graphs() -> None:
    """Forget the graphs of this process, so that the next run finds them on disk and compares them."""
    from guidegraph.graph.acceleration.onnx_backend import forget_sessions

    _compared.clear()
    forget_sessions()


@dataclass
class PartStep:
    """Runs a part.

    ready: its graphs by guards and sizes; None for those at which it runs in torch. seen: guards and ranks so far.
    exports: made in this run. last: the value of each reading at the last call, and its tensors. single: it is a step
    of the top level.
    """

    accelerator: Accelerator
    part: Part
    step: Step
    plan: Plan
    numbers: tuple[Tensor, ...]
    single: bool = False
    ready: dict[tuple[Any, ...], Ready | None] = field(default_factory=dict)
    seen: set[tuple[Any, ...]] = field(default_factory=set)
    exports: int = 0
    last: dict[int, tuple[Any, FlatValue]] = field(default_factory=dict)

    def __call__(self, slots: list[Any]) -> None:
        """Compute the part's results from the slots. Raises ``NodeError``."""
        if self.accelerator.suspended or torch.is_grad_enabled():
            self.run_in_torch(slots)
            return
        try:
            flat = [self._flatten(i, reading, slots) for i, reading in enumerate(self.part.reads)]
        except Unsuitable as reason:
            self.accelerator.report_torch(self.part.paths, str(reason))
            self.run_in_torch(slots)
            return
        tensors = [*(tensor for value in flat for tensor in value.tensors), *self.numbers]
        situation = (*(value.guard for value in flat), *((t.shape, t.dtype) for t in tensors))
        if situation not in self.ready and not self._prepare(situation, flat, tensors, slots):
            return
        ready = self.ready[situation]
        if ready is None:
            self.run_in_torch(slots)
            return
        try:
            outputs = ready.runner(tensors)
        except Exception as error:
            raise node_error(self.step, error) from error
        count = self.store_results(ready, outputs, slots)
        watch, remaining = self.accelerator.context.watch, iter(outputs[count:])
        if watch is None:
            return
        for size in ready.runner.watched:
            value, flag = next(remaining), next(remaining) if size.has_decisive else None
            watch.call = self.part.calls[size.call]
            watch.add(value, size.limit, size.message, None if flag is None else _constant(flag))

    def _prepare(
        self, situation: tuple[Any, ...], flat: Sequence[FlatValue], tensors: Sequence[Tensor], slots: list[Any]
    ) -> bool:
        """Find the graph for a situation. False: the part has run for it, for a comparison or in torch.

        In a loop, a graph is exported when the same guards and ranks come for the second time: the first iteration
        often has values of other shapes than all later ones.
        """
        if reason := explain_pieces([slots[reading.slot] for reading in self.part.reads], tensors):
            self.accelerator.report_torch(self.part.paths, reason)
            self.ready[situation] = None
            return True
        ready = self.accelerator.prepare_part(self, flat, tensors)
        if ready is not None:
            self.ready[situation] = ready
            return True
        guards = (*(value.guard for value in flat), *(tensor.ndim for tensor in tensors))
        export = self.single or guards in self.seen
        if not export and len(self.seen) == MOST_GRAPHS:
            self.accelerator.report_torch(
                self.part.paths, f"it was run with more than {MOST_GRAPHS} sets of plain values"
            )
            self.ready[situation] = None
            return True
        self.seen.add(guards)
        ready, final = self.accelerator.compare_part(self, flat, tensors, slots, export=export)
        if final:
            self.ready[situation] = ready
        return False

    def _flatten(self, position: int, reading: Reading, slots: list[Any]) -> FlatValue:
        """A value as tensors, which are kept from the last call if it had the same object.

        A value with the sizes of others is made again at each call, as their sizes may differ each time.
        """
        last, value = self.last.get(position), slots[reading.slot]
        if last is not None and last[0] is value:
            return last[1]
        fitted = self.part.read(reading, slots)
        flat = flatten_value(reading, fitted, self.plan)
        if fitted is value and not self.single:  # such a step runs once, and its model may be freed after it
            self.last[position] = (value, flat)
        return flat

    def run_in_torch(self, slots: list[Any]) -> None:
        """Run the steps of the part one after the other."""
        for step in self.part.steps:
            self.accelerator.context.watch_call(step.call)
            invoke(step, slots, self.accelerator.context.joins)

    def store_results(self, ready: Ready, outputs: Sequence[Tensor], slots: list[Any]) -> int:
        """Put the results among a graph's outputs into the slots; returns their number."""
        position = 0
        for reading, template in zip(self.part.results, ready.results, strict=True):
            end = position + len(list_tensors(template))
            pairs = zip(outputs[position:end], ready.repeated[position:end], strict=True)
            slots[reading.slot] = rebuild(template, [output[:1] if repeat else output for output, repeat in pairs])
            position = end
        return position


def _constant(flag: Tensor) -> Decisive:
    return lambda: flag


class Accelerator:
    """Accelerates the bodies of a run's loops, and steps of its top level. suspended: while a training loop runs."""

    def __init__(self, config: RunConfig, context: LoopContext, observers: Sequence[Observer]):
        self.config, self.context, self.observers = config, context, observers
        self.backend: Backend = make_backend(config)
        self.suspended = False
        self.refused: dict[str, str] = {}
        self._blocks: dict[int, tuple[BlockPlan, BlockPlan]] = {}
        self._reported: set[tuple[str, ...]] = set()

    def accelerate(self, block: BlockPlan, plan: Plan) -> BlockPlan:
        """The block with its parts in place of their steps."""
        if self.suspended:
            return block
        if id(block) in self._blocks:
            return self._blocks[id(block)][1]
        groups = group_steps(block, self.refused)
        ops = [op for group in groups for op in group.ops]
        for op in ops if any(map(calls_model, ops)) else ():
            if explain_outside(op, self.refused) == UNIDENTIFIED:  # it would be in a part if something identified it
                self.report_torch((f"nodes.{op.key}",), UNIDENTIFIED)
        steps: list[Step] = []
        for group in groups:
            if not group.is_part:
                steps.append(group.steps[0])
                continue
            part = make_part(group, block, plan, lift=self.backend.lifts_numbers)
            outs = tuple(slot for step in group.steps for slot in step.outs)
            reads = tuple(slot for step in group.steps for slot in step.reads)
            joined = Step(None, part.calls, outs, reads, members=group.steps)
            joined.accelerated = PartStep(self, part, joined, plan, self._make_numbers(part))
            steps.append(joined)
        changed = join_block(block, steps) if any(group.is_part for group in groups) else block
        self._blocks[id(block)] = (block, changed)
        return changed

    def accelerate_top_level(self, block: BlockPlan, plan: Plan) -> dict[int, Callable[[list[Any]], None]]:
        """What runs the steps of a block of the top level as graphs, by the identity of each step.

        There is none if the backend keeps no graphs: then a graph would be made for one call.
        """
        if not self.backend.keeps_graphs:
            return {}
        faster: dict[int, Callable[[list[Any]], None]] = {}
        for step in list_single_steps(block, self.refused):
            part = make_part(StepGroup((step,), True), block, plan, lift=self.backend.lifts_numbers, single=True)
            faster[id(step)] = PartStep(self, part, step, plan, self._make_numbers(part), single=True)
        return faster

    def release(self) -> None:
        """Drop the last values of all parts. A loop around the one that has ended flattens its values again."""
        for _, joined in self._blocks.values():
            for step in joined.steps:
                if isinstance(step.accelerated, PartStep):
                    step.accelerated.last.clear()

    def _make_numbers(self, part: Part) -> tuple[Tensor, ...]:
        device = self.config.device
        return tuple(torch.tensor(number.value, dtype=torch.float32, device=device) for number in part.numbers)

    def prepare_part(self, step: PartStep, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> Ready | None:
        """The graph of a part that was compared before in this process or, for a single step, in any; else None."""
        key = self._identify(step.part, flat, tensors)
        entry = _compared.get(key)
        runner = None if entry is None else entry[0]()
        if entry is not None and runner is not None:
            return Ready(runner, *entry[1:])
        if not step.single or not self.backend.was_compared(step.part, flat, tensors):
            return None
        try:
            runner = self.backend.find(step.part, flat, tensors)
        except Exception:  # of any type: the comparison meets it again and reports it
            return None
        if runner is None:
            return None
        results = step.part.results
        ready = Ready(runner, tuple(torch.empty(0) for _ in results), (False,) * len(results))
        self._keep_compared(step.part, flat, tensors, ready)
        return ready

    def compare_part(
        self, step: PartStep, flat: Sequence[FlatValue], tensors: Sequence[Tensor], slots: list[Any], *, export: bool
    ) -> tuple[Ready | None, bool]:
        """Run a part in torch, find or make its graph, and compare both. export: make one if there is none.

        Returns the graph, None if the part stays in torch, and whether that is final. The slots have its results:
        the graph's, so that this run equals later ones, which need no comparison.
        """
        part = step.part
        values = [part.read(reading, slots) for reading in part.reads]
        step.run_in_torch(slots)
        results = tuple(slots[reading.slot] for reading in part.results)
        try:
            runner = self.backend.find(part, flat, tensors)
            if runner is None and not export:
                return None, False
            if runner is None and step.exports == MOST_EXPORTS:
                self.report_torch(part.paths, f"this run exported it {MOST_EXPORTS} times, for other sizes")
                return None, True
            if runner is None:
                step.exports += 1
                with self._report_export(part):
                    runner = self.backend.make(part, PartExample(values, flat, tensors, results))
            outputs = runner(tensors)
        except Exception as error:  # of any type: it comes from torch, onnxruntime or a node
            refusal = explain_failure(part, error)
            if is_lasting(error):
                self.backend.keep_refusal(part, flat, refusal)
            self._refuse(part, refusal)
            return None, True
        expected = [tensor for result in results for tensor in list_tensors(result)]
        own = outputs[: len(outputs) - sum(1 + size.has_decisive for size in runner.watched)]
        if problem := compare(own, expected):
            self._refuse(part, Refusal(None, problem))
            return None, True
        repeated = find_repeated(own, expected)
        ready = Ready(runner, tuple(map(empty_copy, results)), repeated)
        step.store_results(ready, outputs, slots)
        self._keep_compared(part, flat, tensors, ready)
        if step.single and not any(repeated):
            self.backend.note_compared(part, flat, tensors)
        return ready, True

    def _keep_compared(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor], ready: Ready) -> None:
        _compared[self._identify(part, flat, tensors)] = weakref.ref(ready.runner), ready.results, ready.repeated
        while len(_compared) > MOST_COMPARED:
            _compared.popitem(last=False)

    def _identify(self, part: Part, flat: Sequence[FlatValue], tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        return self.backend.identify(part, flat), self.config.device, tuple(tensor.shape for tensor in tensors)

    def _refuse(self, part: Part, refusal: Refusal) -> None:
        """Run a part, or the call at fault, in torch from now on. The rest is grouped again at the next iteration."""
        calls = part.calls if refusal.call is None else (part.calls[refusal.call],)
        self.refused.update({call.key: refusal.reason for call in calls})
        self._blocks.clear()
        self.report_torch(tuple(f"nodes.{call.key}" for call in calls), refusal.reason)

    @contextmanager
    def _report_export(self, part: Part) -> Iterator[None]:
        self._emit(PartAccelerated(part.paths, self.backend.name, "exporting", 0.0))
        started = time.perf_counter()
        yield
        self._emit(PartAccelerated(part.paths, self.backend.name, "exported", time.perf_counter() - started))

    def report_torch(self, paths: tuple[str, ...], reason: str) -> None:
        """Warn once that calls run in torch. paths: theirs."""
        if paths in self._reported:
            return
        self._reported.add(paths)
        warnings.warn(f"{', '.join(paths)}: not accelerated, it runs in torch: {reason}", stacklevel=2)
        self._emit(PartAccelerated(paths, "torch", "refused", 0.0, reason))

    @contextmanager
    def suspend(self, path: str) -> Iterator[None]:
        """A context in which nothing is accelerated, for a training loop."""
        before, self.suspended = self.suspended, True
        self._emit(PartAccelerated((path,), "torch", "refused", 0.0, "it trains"))
        try:
            yield
        finally:
            self.suspended = before

    def _emit(self, event: PartAccelerated) -> None:
        for observer in self.observers:
            observer(event)


def make_backend(config: RunConfig) -> Backend:
    """The backend of a run's setting ``accelerate``."""
    if config.accelerate == "compile":
        return CompileBackend(config)
    from guidegraph.graph.acceleration.onnx_backend import OnnxBackend

    return OnnxBackend(config)

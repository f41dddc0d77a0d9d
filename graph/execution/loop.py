"""Loops: run a body's plan once for each item, carrying values from one iteration to the next."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

from guidegraph.graph import events
from guidegraph.graph.cancellation import is_interrupt
from guidegraph.graph.device_context import current_device, separate_rows
from guidegraph.graph.errors import GuidegraphError, NodeError, Problem, WorkflowError
from guidegraph.graph.execution.cache import nbytes
from guidegraph.graph.execution.call import invoke, node_error
from guidegraph.graph.execution.loop_context import LoopContext, interpret
from guidegraph.graph.execution.watched_sizes import LoopWatch, use_watch
from guidegraph.graph.ir import Choice, Loop
from guidegraph.graph.kinds import find_kind, load_function
from guidegraph.graph.late import torch
from guidegraph.graph.planning.admission import check_wiring
from guidegraph.graph.planning.passes import choose_branch
from guidegraph.graph.planning.plan import Plan
from guidegraph.graph.planning.steps import BlockPlan, BodyPlan, Phase, Step
from guidegraph.graph.sources import Carry, Index, Item, Source
from guidegraph.graph.stopping.loop_state import REFUSED, LoopState, LoopStopped, StopToken, capture_state
from guidegraph.graph.trust.process_state import StateKeeper
from guidegraph.graph.types import ANY, PortType, Tensor, describe_value, is_iterable, is_tensor
from guidegraph.graph.values.serialise import flatten, is_equal_leaf, list_named_fields, unflatten
from guidegraph_runtime.error_text import describe_error

PRECOMPUTE_LIMIT = 64 << 20


def run_step(step: Step, slots: list[Any], context: LoopContext, plan: Plan, keeper: StateKeeper | None = None) -> None:
    """Run a call, a batch of calls or a loop, and store its outputs. Raises the same errors as ``run_loop``."""
    if step.body is None:
        invoke(step, slots, None, keeper)
    else:
        if keeper is not None:
            keeper.forget()
        run_loop(step, slots, context, plan)


def run_loop(step: Step, slots: list[Any], context: LoopContext, plan: Plan) -> None:
    """Run a loop and store its outputs. Raises ``NodeError``, ``Cancelled``, and ``WorkflowError`` for wrong wiring."""
    assert step.body is not None
    loop = step.body.loop
    outside: dict[Source, Any] = {source: slots[slot] for source, slot in step.closure}
    run = load_function(find_kind(loop.kind).run)
    with context.trips.scope():
        results = run(step, outside, context, plan)
    for name, slot in zip(loop.outputs, step.outs, strict=True):
        slots[slot] = results[name]


def list_items(step: Step, over: Any) -> Sequence[Any]:
    """The sequence that a loop runs over, checked to be indexable; an int stands for a range. Raises ``NodeError``."""
    try:
        items = _as_sequence(over)
        len(items)
        return items
    except BaseException as error:  # code of a node may raise anything
        if is_interrupt(error):
            raise
        raise node_error(step, error) from error


def _as_sequence(over: Any) -> Sequence[Any]:
    if isinstance(over, int) and not isinstance(over, bool):
        if over < 0:
            raise ValueError(f"a loop takes 0 or more iterations; found {over}")
        return range(min(over, sys.maxsize))  # a longer range has no len(), and is above any limit on trips
    if not is_iterable(over):
        raise TypeError(f"a loop runs over a sequence or a tensor with an axis; found {describe_value(over)}")
    if is_tensor(over) and over.ndim == 1:
        return over.unsqueeze(1)  # type: ignore[no-any-return]
    return over  # type: ignore[no-any-return]


def iterate(step: Step, outside: dict[Source, Any], context: LoopContext, plan: Plan) -> dict[str, Any]:
    """Run a plain loop. outside: all that it reads. Returns its outputs by name. Raises the errors of ``run_loop``."""
    body_plan = step.body
    assert body_plan is not None
    loop = body_plan.loop
    items = list_items(step, outside[loop.over])
    total, device = len(items), current_device()
    first = _find_first(step, loop, total)
    context.count_trips(step, total - first)
    if total:
        body_plan, outside = _choose_body(body_plan, outside, context, plan)
        loop = body_plan.loop
    check_wiring(body_plan.loop.body.values(), outside)
    body_plan = body_plan.specialise(outside)
    needs_vary = any(source not in outside for source in body_plan.needs_sources)
    phase: Phase | None = None
    items = separate_rows(items)
    rows = _precompute(step, body_plan, outside, items, first, context, plan)
    body_values, collected = _start_values(loop, outside, device)
    next_carries = [(Carry(loop.key, name), source) for name, source in loop.next.items()]
    token = context.stop if loop.key in plan.graph.ops else None  # not for a loop that was moved out of another
    context.iterations.append(0)
    with _use_fresh_watch(context) as watch:
        for i in range(first, total):
            context.cancel.check()
            context.iterations[-1] = watch.iteration = i
            item = to_device(fetch_item(step, items, i), device)
            body_values |= rows[i] if i in rows else run_prologue(body_plan, outside, item, i, context, plan)
            set_item(body_values, body_plan.item_sources, loop, item, i)
            if phase is None or needs_vary:
                phase = body_plan.variant({s: body_values[s] for s in body_plan.needs_sources if s in body_values})
            results = run_phases(phase, body_values, context, plan)
            for name, source in loop.collect.items():
                collected[name].append(results[source])
            for carried, source in next_carries:
                body_values[carried] = results[source]
            report_progress(context, loop, i + 1, total, {})
            _stop_where_requested(loop, i + 1, total, body_values, collected, token)
    watch.finish(total)
    context.iterations.pop()
    stacked = {name: stack(values, loop.outputs[name]) for name, values in collected.items()}
    if context.accelerator is not None:
        context.accelerator.release()
    return {**{name: body_values[Carry(loop.key, name)] for name in loop.carry}, **stacked}


def _choose_body(
    body_plan: BodyPlan, outside: dict[Source, Any], context: LoopContext, plan: Plan
) -> tuple[BodyPlan, dict[Source, Any]]:
    """The plan after all choices of the body whose value comes from outside, and with what runs before it computed."""
    while (selected := body_plan.choose(outside)) is not body_plan:
        body_plan = selected
        if body_plan.before is not None:
            outside = {**outside, **run_block(body_plan.before, outside, context, plan)}
    return body_plan, outside


def _find_first(step: Step, loop: Loop, total: int) -> int:
    """The index of the first iteration. Raises ``NodeError`` if a loop cannot be stopped or resumed where it should."""
    first = loop.resumed.done if loop.resumed is not None else 0
    message = ""
    if loop.resumed is not None and loop.resumed.total != total:
        message = f"the state is of a loop of {loop.resumed.total} iterations; found {total}"
    elif loop.stop_at is not None and not first < loop.stop_at <= total:
        message = f"it can be stopped after {first + 1} to {total} iterations; found {loop.stop_at}"
    if message:
        raise node_error(step, ItemError(message))
    return first


def _start_values(
    loop: Loop, outside: Mapping[Source, Any], device: torch.device
) -> tuple[dict[Source, Any], dict[str, list[Any]]]:
    """The body's values before the first iteration, and the collected values of earlier ones, if it is resumed."""
    collected: dict[str, list[Any]] = {name: [] for name in loop.collect}
    if loop.resumed is None:
        start = {name: outside[source] for name, source in loop.carry.items()}
    else:
        _check_names(loop, loop.resumed, outside)
        start, collected = loop.resumed.read_carry(device), loop.resumed.read_collected(device)
    if loop.stop_at is not None:
        capture_state(loop.key, 0, 0, start, {})  # a value that no file can hold is better found before the iterations
    return {**outside, **{Carry(loop.key, name): value for name, value in start.items()}}, collected


def _check_names(loop: Loop, state: LoopState, outside: Mapping[Source, Any]) -> None:
    """Raise ``WorkflowError`` if a carry of a resumed loop starts with values by name that the state does not have."""
    for name, source in loop.starts.items():
        if missing := state.find_missing_names(name, outside[source]):
            message = (
                f"the carry '{name}' starts with {', '.join(missing)} after the change, and the state after "
                f"{state.done} of {state.total} iterations has none; undo the change, or run from the beginning"
            )
            raise WorkflowError([Problem(loop.mark, REFUSED, message, f"nodes.{loop.key}")])


def _stop_where_requested(
    loop: Loop,
    done: int,
    total: int,
    body_values: Mapping[Source, Any],
    collected: Mapping[str, Sequence[Any]],
    token: StopToken | None,
) -> None:
    """Raise ``LoopStopped`` if the run ends after ``done`` iterations.

    If a token asks for it and no file can hold the state, the request is withdrawn with a warning, and the run goes on.
    """
    is_asked = token is not None and token.requested and done < total
    if done != loop.stop_at and not is_asked:
        return
    values = {name: body_values[Carry(loop.key, name)] for name in loop.carry}
    try:
        state = capture_state(loop.key, done, total, values, collected)
    except GuidegraphError as error:
        if token is None or done == loop.stop_at:
            raise
        token.withdraw()
        warnings.warn(f"{loop.mark}: {error}; the run goes on", stacklevel=2)
        return
    raise LoopStopped(state)


@contextmanager
def _use_fresh_watch(context: LoopContext) -> Iterator[LoopWatch]:
    """Give a loop its own watch and no joined values; restore those of the enclosing loop afterwards."""
    outer = context.watch, context.joins
    watch, context.joins = LoopWatch(context.warned), {}
    context.watch = watch
    try:
        with use_watch(watch):
            yield watch
    finally:
        context.watch, context.joins = outer


def fetch_item(step: Step, items: Sequence[Any], i: int) -> Any:
    """Item i of a loop's sequence. If the data fails, raises ``NodeError`` that names the loop."""
    try:
        return items[i]
    except BaseException as error:
        if is_interrupt(error):
            raise
        unreadable = ItemError(f"item {i} cannot be read: {describe_error(error)}")
        unreadable.__cause__ = error
        raise node_error(step, unreadable) from error


class ItemError(GuidegraphError):
    """A loop cannot continue: an item or its field is unreadable, or it cannot stop or resume where requested."""


def report_progress(context: LoopContext, loop: Loop, done: int, total: int, values: Mapping[str, float]) -> None:
    for observer in context.observers:
        observer(events.LoopProgress(f"nodes.{loop.key}", done, total, values))


def set_item(values: dict[Source, Any], sources: Sequence[Source], loop: Loop, item: Any, i: int) -> None:
    """Set the values that a body reads from the loop's item and index."""
    for source in sources:
        if isinstance(source, Index) and source.loop == loop.key:
            values[source] = i
        elif isinstance(source, Item) and source.loop == loop.key:
            values[source] = item if source.field is None else _field(loop, item, source.field)


def _field(loop: Loop, item: Any, name: str) -> Any:
    """A field of an item. Raises ``NodeError`` that names the loop if the item has no such field."""
    try:
        return getattr(item, name)
    except AttributeError:
        error = ItemError(f"an item has no field '{name}'; found {describe_value(item)}")
        raise NodeError(f"nodes.{loop.key}", "loop", loop.mark, error) from None


def run_prologue(
    body_plan: BodyPlan, outside: Mapping[Source, Any], item: Any, i: int, context: LoopContext, plan: Plan
) -> dict[Source, Any]:
    """The values of one iteration that depend on the loop's item alone."""
    if body_plan.prologue is None:
        return {}
    values = dict(outside)
    set_item(values, [source for source, _ in body_plan.prologue.inputs], body_plan.loop, item, i)
    return run_block(body_plan.prologue, values, context, plan)


def _precompute(
    step: Step,
    body_plan: BodyPlan,
    outside: Mapping[Source, Any],
    items: Sequence[Any],
    first: int,
    context: LoopContext,
    plan: Plan,
) -> dict[int, dict[Source, Any]]:
    """The prologue's values by iteration, from ``first``, for as many as fit ``PRECOMPUTE_LIMIT``."""
    rows: dict[int, dict[Source, Any]] = {}
    size = 0
    if body_plan.prologue is None:
        return rows
    context.iterations.append(0)
    for i in range(first, len(items)):
        context.cancel.check()
        context.iterations[-1] = i
        item = to_device(fetch_item(step, items, i), current_device())
        row = run_prologue(body_plan, outside, item, i, context, plan)
        size += sum(map(nbytes, row.values()))
        if size > PRECOMPUTE_LIMIT:
            break
        rows[i] = row
    context.iterations.pop()
    return rows


def run_phases(phase: Phase, values: Mapping[Source, Any], context: LoopContext, plan: Plan) -> dict[Source, Any]:
    """Run a body's steps once, making each choice as soon as its value is known. Raises ``NodeError``.

    Returns the values of the roots, each by its original source.
    """
    while phase.choices:
        values = {**values, **run_block(phase.block, values, context, plan)}
        phase = phase.after_branches(tuple(_choose_branch(choice, values, context) for choice in phase.choices))
    return run_block(phase.block, values, context, plan)


def _choose_branch(choice: Choice, values: Mapping[Source, Any], context: LoopContext) -> str:
    try:
        return choose_branch(choice, values[choice.when])
    except NodeError as error:
        raise _with_iterations(error, context) from error.cause


def run_block(block: BlockPlan, values: Mapping[Source, Any], context: LoopContext, plan: Plan) -> dict[Source, Any]:
    """Run a body's steps once; ``values`` has everything that it reads from outside. Raises ``NodeError``."""
    timed, watch, joins, keeper = bool(context.observers), context.watch, context.joins, StateKeeper()
    if context.accelerator is not None:
        block = context.accelerator.accelerate(block, plan)

    def execute(step: Step, slots: list[Any]) -> None:
        started = time.perf_counter() if timed else 0.0
        if watch is not None:
            watch.call = step.call
        if step.accelerated is not None:
            keeper.forget()
            step.accelerated(slots)
        elif step.body is None:  # as run_step does, without the cost of a call for each step
            invoke(step, slots, joins, keeper)
        else:
            keeper.forget()
            run_loop(step, slots, context, plan)
        if timed:
            context.add_time(step, time.perf_counter() - started)

    try:
        return interpret(block, values, execute)
    except NodeError as error:
        if not error.iteration and context.iterations:
            raise _with_iterations(error, context) from error.cause
        raise


def _with_iterations(error: NodeError, context: LoopContext) -> NodeError:
    """The error with the current iterations of all loops."""
    return NodeError(error.path, error.node_id, error.mark, error.cause, ", ".join(map(str, context.iterations)))


def stack(values: list[Any], kind: PortType = ANY) -> Any:
    """Stack collected values along a new leading axis, leaf by leaf in structures; a list if they do not stack.

    kind: the declared type of the values. Without iterations, an empty tensor (0) if that is a tensor type.
    """
    if not values and all(isinstance(a, type) and issubclass(a, Tensor) for a in kind.alternatives):
        return torch.empty(0)
    if not values or not any(is_tensor(v) or is_dataclass(v) for v in values):
        return values
    flat = [flatten(v) for v in values]
    structure = flat[0][1]
    if any(other != structure for _, other in flat):
        return values
    columns = [_stack_leaves(column) for column in zip(*(leaves for leaves, _ in flat), strict=True)]
    return values if any(c is _UNFIT for c in columns) else unflatten(columns, structure)


_UNFIT = object()


def _stack_leaves(column: Sequence[Any]) -> Any:
    first = column[0]
    if not all(is_tensor(v) for v in column):
        same = not any(is_tensor(v) for v in column) and all(is_equal_leaf(v, first) for v in column)
        return first if same else _UNFIT
    if any(v.shape != first.shape or v.dtype != first.dtype for v in column):
        return _UNFIT
    # Values from before a training was resumed may be on another device.
    return torch.stack([v.to(column[-1].device) for v in column])


def to_device(item: Any, device: torch.device) -> Any:
    """A value with its tensors on a device, also those in a NamedTuple, dataclass, tuple, list or dictionary.

    With the CPU as the device the value is returned as it is: tensors that a CPU run made elsewhere are meant to stay.
    """
    if device.type == "cpu":
        return item
    if is_tensor(item):
        on_device = item.device.type == device.type and device.index in (None, item.device.index)
        return item if on_device else item.to(device)
    fields = list_named_fields(item)
    if fields is not None:
        moved = {name: to_device(value, device) for name, value in fields.items()}
        if all(moved[name] is value for name, value in fields.items()):
            return item
        return moved if isinstance(item, dict) else type(item)(**moved)
    if isinstance(item, (list, tuple)):
        items = [to_device(value, device) for value in item]
        return item if all(a is b for a, b in zip(items, item, strict=True)) else type(item)(items)
    return item

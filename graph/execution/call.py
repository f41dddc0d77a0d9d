"""One step of a plan: gather the arguments, check narrowing links, call the node, and store its outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from guidegraph.graph.cancellation import is_interrupt
from guidegraph.graph.errors import Cancelled, NodeError, PortError
from guidegraph.graph.execution.join_calls import KeptJoins, Sizes, call_as_batch
from guidegraph.graph.ir import Call
from guidegraph.graph.planning.steps import Step
from guidegraph.graph.sources import Output
from guidegraph.graph.trust.file_checks import check_paths
from guidegraph.graph.trust.policy import refuse_shipped
from guidegraph.graph.trust.process_state import StateKeeper, restore_state, save_state
from guidegraph.graph.types import describe_value, explain_mismatch
from guidegraph.graph.values.output_check import OutputError, output_mismatch
from guidegraph.graph.values.ownership import copy_value

_SIZES = Sizes()


def invoke(
    step: Step, slots: list[Any], kept: dict[int, KeptJoins] | None = None, keeper: StateKeeper | None = None
) -> None:
    """Run a call or a batch of calls, and restore the process state that it changed. Raises ``NodeError``.

    kept: what batches joined in earlier iterations of a loop, by the identity of their steps. keeper: of the process
    state, for the steps of a block that runs in this thread.
    """
    process_state = None if step.watch == "nothing" else save_state(step.watch, keeper)
    if keeper is not None:
        keeper.saved = None
    try:
        if step.plain:
            args = [slots[slot] for slot in step.reads]
            store_outputs(step, slots, step.function(*args, **step.layout.constants))  # type: ignore[misc,union-attr]
        elif step.members:
            invoke_batch(step, slots, _SIZES, invoke, None if kept is None else kept.setdefault(id(step), {}))
        else:
            invoke_call(step, slots)
    except (NodeError, Cancelled):
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise node_error(step, error) from error
    finally:
        if process_state is not None:
            restore_state(process_state, step.ops[0], keeper)  # type: ignore[arg-type]


def invoke_call(step: Step, slots: list[Any]) -> None:
    """Call a node with its arguments and store its outputs."""
    assert step.function is not None
    args, by_name = gather_arguments(step, slots)
    store_outputs(step, slots, step.function(*args, **by_name))


def invoke_batch(
    step: Step,
    slots: list[Any],
    sizes: Sizes,
    invoke_member: Callable[[Step, list[Any]], None],
    kept: KeptJoins | None = None,
) -> None:
    """Run the calls of a batch as one or, if their arguments cannot be joined, one by one with ``invoke_member``."""
    function = step.members[0].function
    assert function is not None
    arguments = [gather_arguments(member, slots) for member in step.members]
    results = call_as_batch(function, arguments, step.joined, sizes, kept)
    if results is None:
        for member in step.members:
            invoke_member(member, slots)
        return
    for member, result in zip(step.members, results, strict=True):
        store_outputs(member, slots, result)


def node_error(step: Step, error: BaseException) -> NodeError:
    """An error as a ``NodeError`` that names the step's place in the workflow."""
    op = step.ops[0]
    if not isinstance(error, PortError):
        return NodeError(f"nodes.{op.key}", op.node_id, op.mark, error)
    if error.names_giver and isinstance(op, Call) and isinstance(source := op.argument(error.port), Output):
        error = PortError(error.port, f"{error.message}. It comes from nodes.{source.op}")
    return NodeError(f"nodes.{op.key}", op.node_id, op.mark_of(error.port), error)


def gather_arguments(step: Step, slots: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments, with narrowing links, wired settings and paths checked.

    Raises ``PortError`` and ``RefusedFile``.
    """
    call, layout = step.call, step.layout
    assert call is not None
    assert layout is not None
    if step.plain:
        return [slots[slot] for slot in step.reads], layout.constants
    args = [slots[s] if isinstance(s, int) else [slots[i] for i in s] for s in step.args]
    by_name = dict(layout.constants)
    if layout.mutable:
        by_name |= {name: copy_value(by_name[name]) for name in layout.mutable}
    for name, slot in step.wired:
        by_name[name] = slots[slot] if isinstance(slot, int) else [slots[i] for i in slot]
    for name, fits, position in layout.narrowed:
        value = by_name[name] if position is None else args[position]
        if not fits(value):
            raise PortError(name, explain_mismatch(value, dict(call.checks)[name]) or "")
    for name in layout.validated:
        try:
            by_name[name] = call.spec.settings[name].check(by_name[name])
            if isinstance(by_name[name], Path):
                refuse_shipped(call.spec.settings[name], by_name[name])
        except ValueError as error:
            raise PortError(name, str(error)) from None
    if by_name:
        check_paths(by_name)
    return args, by_name


def store_outputs(step: Step, slots: list[Any], value: Any) -> None:
    """Store the result of a call in its slots. Raises ``TypeError`` if it does not match the node's annotation."""
    call, layout = step.call, step.layout
    assert call is not None
    assert layout is not None
    if not call.spec.named_outputs:
        if step.outs:
            check = layout.checks[0]
            if check is not None and not check(value):
                raise _output_error(call, 0, value)
            slots[step.outs[0]] = value
        return
    if not isinstance(value, tuple) or len(value) != len(step.outs):
        raise TypeError(f"expected a NamedTuple of {', '.join(call.outputs)}; found {describe_value(value)}")
    for i, (slot, output) in enumerate(zip(step.outs, value, strict=True)):
        check = layout.checks[i]
        if check is not None and not check(output):
            raise _output_error(call, i, output)
        slots[slot] = output


def _output_error(call: Call, index: int, value: Any) -> OutputError:
    name, kind = list(call.outputs.items())[index]
    return OutputError(name, output_mismatch(value, kind))

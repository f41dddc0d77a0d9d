"""One step of a plan: gather the arguments, check narrowing links, call the node, and store its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guidegraph.graph.cancellation import is_interrupt
from guidegraph.graph.errors import Cancelled, Mark, NodeError
from guidegraph.graph.ir import Call, Loop
from guidegraph.graph.planning.batch import BatchCall, call_as_batch
from guidegraph.graph.planning.steps import Step
from guidegraph.graph.trust.file_checks import check_paths
from guidegraph.graph.trust.policy import refuse_shipped
from guidegraph.graph.trust.process_state import restore_state, save_state
from guidegraph.graph.types import describe_value, explain_mismatch
from guidegraph.graph.values.output_check import OutputError, output_mismatch
from guidegraph.graph.values.ownership import copy_value


def invoke(step: Step, slots: list[Any]) -> None:
    """Run a call or a batch of calls, and restore the process state that it changed. Raises ``NodeError``."""
    process_state = None if step.watch == "nothing" else save_state(step.watch)
    try:
        if step.members:
            _invoke_batch(step, slots)
        elif step.plain:
            if step.constants:
                check_paths(step.constants)
            args = [slots[s] for s in step.args]  # type: ignore[index]
            store_outputs(step, slots, step.function(*args, **step.constants))  # type: ignore[misc]
        else:
            args, by_name = gather_arguments(step, slots)
            check_paths(by_name)
            store_outputs(step, slots, step.function(*args, **by_name))  # type: ignore[misc]
    except (NodeError, Cancelled):
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise node_error(step, error) from error
    finally:
        if process_state is not None:
            restore_state(process_state, step.op.calls[0] if isinstance(step.op, BatchCall) else step.op)  # type: ignore[arg-type]


def node_error(step: Step, error: BaseException) -> NodeError:
    """An error as a ``NodeError`` that names the step's place in the workflow."""
    op = step.op.calls[0] if isinstance(step.op, BatchCall) else step.op
    name = op.spec.id if isinstance(op, Call) else "loop"
    mark = _mark(op, error)
    return NodeError(f"nodes.{op.key}", name, mark, error)


class PortError(ValueError):
    """A value does not fit the port that it was linked to."""

    def __init__(self, port: str, message: str):
        self.port = port
        super().__init__(f"port '{port}': {message}")


def _mark(op: Call | Loop, error: BaseException) -> Mark:
    if isinstance(error, PortError) and isinstance(op, Call):
        return op.marks.get(error.port, op.mark)
    return op.mark


def gather_arguments(step: Step, slots: list[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and keyword arguments, with narrowing links and wired settings checked. Raises ``PortError``."""
    call = step.op
    assert isinstance(call, Call)
    args = [slots[s] if isinstance(s, int) else [slots[i] for i in s] for s in step.args]
    by_name = dict(step.constants)
    by_name |= {name: copy_value(by_name[name]) for name in step.mutable}
    for name, slot in step.wired:
        by_name[name] = slots[slot] if isinstance(slot, int) else [slots[i] for i in slot]
    if call.checks:
        positions = dict(zip(call.spec.inputs, args, strict=False))
        for name, kind in call.checks:
            value = by_name[name] if name in by_name else positions[name]
            if reason := explain_mismatch(value, kind):
                raise PortError(name, reason)
    for name in step.validated:
        try:
            by_name[name] = call.spec.settings[name].check(by_name[name])
            if isinstance(by_name[name], Path):
                refuse_shipped(call.spec.settings[name], by_name[name])
        except ValueError as error:
            raise PortError(name, str(error)) from None
    return args, by_name


def store_outputs(step: Step, slots: list[Any], value: Any) -> None:
    """Store the result of a call in its slots. Raises ``TypeError`` if it does not match the node's annotation."""
    if not step.named:
        if step.outs:
            check = step.checks[0]
            if check is not None and not check(value):
                raise _output_error(step, 0, value)
            slots[step.outs[0]] = value
        return
    if not isinstance(value, tuple) or len(value) != len(step.outs):
        call = step.op
        assert isinstance(call, Call)
        raise TypeError(f"expected a NamedTuple of {', '.join(call.outputs)}; found {describe_value(value)}")
    for i, (slot, output) in enumerate(zip(step.outs, value, strict=True)):
        check = step.checks[i]
        if check is not None and not check(output):
            raise _output_error(step, i, output)
        slots[slot] = output


def _output_error(step: Step, index: int, value: Any) -> OutputError:
    call = step.op
    assert isinstance(call, Call)
    name, kind = list(call.outputs.items())[index]
    return OutputError(name, output_mismatch(value, kind))


def _invoke_batch(step: Step, slots: list[Any]) -> None:
    first = step.members[0]
    call = first.op
    assert isinstance(call, Call)
    assert first.function is not None
    gathered_arguments = [gather_arguments(member, slots) for member in step.members]
    for _, by_name in gathered_arguments:
        check_paths(by_name)
    leading = list(call.spec.inputs)[: len(first.args)]
    batchable = [leading.index(p) if p in leading else p for p in call.spec.batchable if p in call.inputs]
    results = call_as_batch(first.function, gathered_arguments, batchable)
    if results is None:
        for member in step.members:
            invoke(member, slots)
        return
    for member, result in zip(step.members, results, strict=True):
        store_outputs(member, slots, result)

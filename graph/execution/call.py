"""One step of a plan: gather the arguments, check narrowing links, call the node, and store its outputs.

Sibling calls of a batchable node can be one call: their arguments are joined along the leading axis, and the result is
split again. The first batchable argument sets the batch size; leading axes of length 1 in the others are expanded to
it. Another argument with one entry for each sample, such as scales, would not fit the joined batch, so such calls stay
apart.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from guidegraph.graph.cancellation import is_interrupt
from guidegraph.graph.errors import Cancelled, NodeError, PortError
from guidegraph.graph.ir import Call
from guidegraph.graph.late import torch
from guidegraph.graph.planning.steps import Step
from guidegraph.graph.sources import Output
from guidegraph.graph.trust.file_checks import check_paths
from guidegraph.graph.trust.policy import refuse_shipped
from guidegraph.graph.trust.process_state import StateKeeper, restore_state, save_state
from guidegraph.graph.types import describe_value, explain_mismatch
from guidegraph.graph.values.output_check import OutputError, output_mismatch
from guidegraph.graph.values.ownership import copy_value, count_changes
from guidegraph.graph.values.serialise import flatten, has_fixed_leaves, is_equal_leaf, unflatten

if TYPE_CHECKING:
    from torch import Tensor


Arguments: TypeAlias = "tuple[Sequence[Any], Mapping[str, Any]]"
"""The positional and keyword arguments of a call."""
FlatValue: TypeAlias = "tuple[list[Any], Any]"
"""The leaves of a value, and its structure."""


@dataclass(frozen=True)
class JoinedValue:
    """The values of a port in sibling calls, their leaves and batch sizes, and the value that joins them.

    tensors: all tensors among these leaves and in ``joined``. changes: of each tensor, before the joined call.
    """

    values: Sequence[Any]
    flat: Sequence[FlatValue]
    lengths: Sequence[int]
    joined: Any
    tensors: Sequence[Tensor]
    changes: Sequence[int]

    @classmethod
    def of(
        cls, values: Sequence[Any], flat: Sequence[FlatValue], lengths: Sequence[int], joined: Any
    ) -> JoinedValue | None:
        """The record of a join; ``None`` for values whose leaves could be replaced, such as lists."""
        if not all(has_fixed_leaves(structure) for _, structure in flat):
            return None
        leaves = [leaf for leaves, _ in (*flat, flatten(joined)) for leaf in leaves]
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        return cls(values, flat, lengths, joined, tensors, count_changes(tensors))

    def joins(self, values: Sequence[Any]) -> bool:
        """Whether these are the same values, and neither their tensors nor the joined ones changed."""
        return all(map(operator.is_, self.values, values)) and self.changes == count_changes(self.tensors)


KeptJoins: TypeAlias = "dict[int | str, JoinedValue | None]"
"""By port, what the earlier iterations of a loop joined.

``None`` for arguments that are not kept: they are new in each iteration, or have leaves that can be replaced.
"""


class Sizes:
    """How the sizes of tensors are read, compared and divided. They are numbers, and batches may differ in size."""

    def find_lengths(self, calls: Sequence[Sequence[Any]]) -> Sequence[Any] | None:
        """The batch size of each call: the leading size of the first tensor among its batchable arguments' leaves.

        ``None`` if a call has no tensor, or one whose leading size is neither that nor 1.
        """
        lengths = []
        for leaves in calls:
            length = 0
            for leaf in leaves:
                if isinstance(leaf, torch.Tensor):
                    size = leaf.shape[0] if leaf.ndim else 0
                    length = length or size
                    if size not in (1, length) or not length:
                        return None
            if not length:
                return None
            lengths.append(length)
        return lengths

    def are_equal(self, a: Tensor, b: Tensor) -> bool:
        """Whether two tensors have the same sizes, except for the leading axis."""
        return a.shape[1:] == b.shape[1:]

    def expand(self, tensor: Tensor, length: Any) -> Tensor:
        """The tensor with its leading axis, of 1 or the length, expanded to the length."""
        sides = tensor.shape
        return tensor if sides[0] == length else tensor.expand(length, *sides[1:])

    def has_batch(self, tensor: Tensor, length: Any) -> bool:
        """Whether a tensor has as many entries on its leading axis as a batch of several samples."""
        return bool(tensor.ndim > 0 and tensor.shape[0] == length != 1)

    def divide(self, tensor: Tensor, lengths: Sequence[Any]) -> Any:
        """The rows of each call, by its index. Raises ``ValueError`` if the leading axis is not that of all calls."""
        total = sum(lengths)
        if tensor.ndim == 0 or tensor.shape[0] != total:
            raise ValueError(
                f"a batchable node must give outputs along the batch axis: expected leading size {total}, "
                f"found shape {tuple(tensor.shape)}"
            )
        return tensor.split_with_sizes(lengths)


def call_as_batch(
    function: Callable[..., Any],
    calls: Sequence[Arguments],
    batchable: Sequence[int | str],
    sizes: Sizes,
    kept: KeptJoins | None = None,
) -> list[Any] | None:
    """Run several calls as one and split the result; ``None`` if their arguments cannot be joined.

    batchable: the arguments to join, by index if positional, else by name. kept: of the same calls in earlier
    iterations of a loop; it is brought up to date.
    """
    joined = _join_arguments(calls, batchable, sizes, None if torch.is_grad_enabled() else kept)
    if joined is None:
        return None
    (args, by_name), lengths = joined
    return _split(function(*args, **by_name), lengths, sizes)


def _join_arguments(
    calls: Sequence[Arguments], batchable: Sequence[int | str], sizes: Sizes, kept: KeptJoins | None
) -> tuple[Arguments, Sequence[Any]] | None:
    """The arguments of the joined call, and the batch size of each call; ``None`` if they cannot be joined."""
    columns: list[tuple[int | str, list[Any], Sequence[FlatValue], JoinedValue | None]] = []
    leaves_by_call: list[list[Any]] = [[] for _ in calls]
    for port in batchable:
        values = [args[port] if isinstance(port, int) else by_name[port] for args, by_name in calls]
        join = None if kept is None else kept.get(port)
        if join is not None and not join.joins(values):
            join = None
        flat = join.flat if join is not None else list(map(flatten, values))
        columns.append((port, values, flat, join))
        for leaves, (own_leaves, _) in zip(leaves_by_call, flat, strict=True):
            leaves += own_leaves
    lengths = sizes.find_lengths(leaves_by_call)
    if lengths is None or _has_sample_entries(*calls[0], batchable, lengths, sizes):
        return None
    args, by_name = list(calls[0][0]), dict(calls[0][1])
    for port, values, flat_values, join in columns:
        if join is not None and join.lengths == lengths:
            value = join.joined
        else:
            value = _join(flat_values, lengths, sizes)
            if value is _UNFIT:
                return None
            if kept is not None:
                kept[port] = None if port in kept else JoinedValue.of(values, flat_values, lengths, value)
        if isinstance(port, int):
            args[port] = value
        else:
            by_name[port] = value
    return (args, by_name), lengths


def _has_sample_entries(
    args: Sequence[Any],
    by_name: Mapping[str, Any],
    batchable: Sequence[int | str],
    lengths: Sequence[Any],
    sizes: Sizes,
) -> bool:
    """Whether an argument that is not joined is a tensor with an entry for each sample of some call."""
    arguments: tuple[tuple[int | str, Any], ...] = (*enumerate(args), *by_name.items())
    for port, value in arguments:
        is_shared = isinstance(value, torch.Tensor) and port not in batchable
        if is_shared and any(sizes.has_batch(value, length) for length in lengths):
            return True
    return False


_UNFIT = object()


def _join(flat: Sequence[FlatValue], lengths: Sequence[Any], sizes: Sizes) -> Any:
    """Flat values joined leaf by leaf; ``_UNFIT`` if their structures, dtypes, devices or plain leaves differ.

    The sizes of tensors may differ in the leading axis alone.
    """
    structure = flat[0][1]
    for _, other in flat[1:]:
        if other is not structure and other != structure:
            return _UNFIT
    joined = []
    for column in zip(*[leaves for leaves, _ in flat], strict=True):
        first = column[0]
        if not isinstance(first, torch.Tensor):
            if not all(is_equal_leaf(leaf, first) for leaf in column[1:]):
                return _UNFIT
            joined.append(first)
            continue
        for leaf in column[1:]:
            if leaf is first:
                continue
            if not isinstance(leaf, torch.Tensor) or leaf.dtype != first.dtype or leaf.device != first.device:
                return _UNFIT
            if not sizes.are_equal(first, leaf):
                return _UNFIT
        joined.append(torch.cat(list(map(sizes.expand, column, lengths))))
    return unflatten(joined, structure)


def _split(value: Any, lengths: Sequence[Any], sizes: Sizes) -> list[Any]:
    """The result of each call; values other than tensors are the same in all of them."""
    leaves, structure = flatten(value)
    divided = [
        sizes.divide(leaf, lengths) if isinstance(leaf, torch.Tensor) else [leaf] * len(lengths) for leaf in leaves
    ]
    return [unflatten([rows[i] for rows in divided], structure) for i in range(len(lengths))]


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

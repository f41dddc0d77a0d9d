"""Running a block's steps on traced values, whose sizes may be symbols of the graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

from guidegraph.graph.errors import NodeError
from guidegraph.graph.execution.call import invoke_batch, invoke_call, node_error
from guidegraph.graph.execution.interpreter import interpret
from guidegraph.graph.execution.join_calls import Sizes
from guidegraph.graph.planning.steps import BlockPlan, Step
from guidegraph.graph.sources import Source
from guidegraph.graph.values.leaves import flatten

if TYPE_CHECKING:
    from torch import Tensor


_separate_calls: ContextVar[set[str] | None] = ContextVar("separate_calls", default=None)


@contextmanager
def record_separate_calls() -> Iterator[set[str]]:
    """A context that collects the keys of sibling calls that ran one by one, as their sizes did not let them join."""
    keys: set[str] = set()
    token = _separate_calls.set(keys)
    try:
        yield keys
    finally:
        _separate_calls.reset(token)


KeptResults: TypeAlias = "dict[tuple[str, ...], list[tuple[list[Any], list[Any]]]]"
"""By the keys of a step's operations: the values that it read, and those that it returned."""

_kept_results: ContextVar[KeptResults | None] = ContextVar("kept_results", default=None)


@contextmanager
def keep_results() -> Iterator[None]:
    """A context in which a step is not executed again for the same tensors and plain values."""
    token = _kept_results.set({})
    try:
        yield
    finally:
        _kept_results.reset(token)


def run_traced(block: BlockPlan, values: Mapping[Source, Any]) -> dict[Source, Any]:
    """The results of a block for traced values: siblings are joined without inspecting sizes. Raises ``NodeError``."""
    return interpret(block, values, _execute if _kept_results.get() is None else _execute_once)


def _execute_once(step: Step, slots: list[Any]) -> None:
    kept = _kept_results.get()
    assert kept is not None
    values = [slots[slot] for slot in step.reads]
    earlier_calls = kept.setdefault(tuple(op.key for op in step.ops), [])
    stored = next((results for earlier, results in earlier_calls if all(map(_are_same, values, earlier))), None)
    if stored is None:
        _execute(step, slots)
        earlier_calls.append((values, [slots[slot] for slot in step.outs]))
        return
    for slot, result in zip(step.outs, stored, strict=True):
        slots[slot] = result


def _are_same(value: Any, other: Any) -> bool:
    """Whether two values have the same tensors and plain values in the same structure."""
    if value is other:
        return True
    (leaves, structure), (other_leaves, other_structure) = flatten(value), flatten(other)
    same_leaves = len(leaves) == len(other_leaves) and all(a is b for a, b in zip(leaves, other_leaves, strict=True))
    return same_leaves and bool(structure == other_structure)


def _call_separately(step: Step, slots: list[Any]) -> None:
    keys = _separate_calls.get()
    if keys is not None:
        keys.update(op.key for op in step.ops)
    _execute(step, slots)


def _execute(step: Step, slots: list[Any]) -> None:
    try:
        if step.members:
            invoke_batch(step, slots, SymbolicSizes(), _call_separately)
        else:
            invoke_call(step, slots)
    except NodeError:
        raise
    except (Exception, SystemExit) as error:
        raise node_error(step, error) from error


class SymbolicSizes(Sizes):
    """Sizes that may be symbols. All calls have the batch of the first one, which is not inspected."""

    def find_lengths(self, calls: Sequence[Sequence[Any]]) -> Sequence[Any] | None:
        from torch import Tensor

        first = next((leaf for leaf in calls[0] if isinstance(leaf, Tensor)), None)
        return None if first is None else [first.shape[0]] * len(calls)

    def are_equal(self, a: Tensor, b: Tensor) -> bool:
        """Whether sizes are equal statically or in the example. The latter are constrained to be equal in the graph."""
        from guidegraph.graph.torch_private import statically_known_true

        return a.ndim == b.ndim and all(
            statically_known_true(x == y) or (_hint(x) == _hint(y) and bool(x == y))
            for x, y in zip(a.shape[1:], b.shape[1:], strict=True)
        )

    def expand(self, tensor: Tensor, length: Any) -> Tensor:
        return tensor.expand(length, *tensor.shape[1:])

    def has_batch(self, tensor: Tensor, length: Any) -> bool:
        from guidegraph.graph.torch_private import statically_known_true

        if tensor.ndim == 0:
            return False
        return statically_known_true(tensor.shape[0] == length) and not statically_known_true(length == 1)

    def divide(self, tensor: Tensor, lengths: Sequence[Any]) -> Any:
        return tensor.unflatten(0, (len(lengths), lengths[0]))


def _hint(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint)

"""Parts to trace: subgraphs as functions of flat tensors, with example inputs and free axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from guidegraph.graph import torch_private
from guidegraph.graph.errors import NodeError
from guidegraph.graph.execution.call import Sizes, invoke_batch, invoke_call, node_error
from guidegraph.graph.execution.loop_context import interpret
from guidegraph.graph.export.errors import ExportError
from guidegraph.graph.export.partition.leaves import DYNAMIC, Axes, Leaf, rebuild, tensor_leaves
from guidegraph.graph.export.partition.precision import cast_models
from guidegraph.graph.ir import Op, list_calls
from guidegraph.graph.late import torch
from guidegraph.graph.memory.weights import find_models
from guidegraph.graph.planning.steps import BlockPlan, Step, flatten_block
from guidegraph.graph.sources import Output, Source
from guidegraph.graph.types import PortType
from guidegraph.graph.values.serialise import flatten

if TYPE_CHECKING:
    from torch import Tensor


FEW_SAMPLES = 2
"""The batch with which a part is run where only the sizes or the differences of its results count."""


@dataclass(frozen=True)
class PartInput:
    """An input tensor of a part: its name, an example, its axes, and the key of the operation that computes it."""

    name: str
    example: Any
    axes: Axes
    giver: str = ""


@dataclass(frozen=True)
class PartPlan:
    """A subgraph to trace. function: from the input tensors, in order, to the output tensors, in order.

    in_loop: it belongs to a loop's body, whose carries share one batch. cast: returns the function with its models in
    another dtype. models: in the function. form_of: the name of the part that it is a shorter form of.
    """

    name: str
    inputs: tuple[PartInput, ...]
    outputs: tuple[str, ...]
    function: Callable[..., tuple[Any, ...]]
    keys: tuple[str, ...]
    cast: Callable[[Any], Callable[..., tuple[Any, ...]]] | None = None
    in_loop: bool = False
    models: tuple[Any, ...] = ()
    form_of: str = ""


@dataclass(frozen=True)
class ExampleValue:
    """A value that a part reads or returns: its source, name, example and type.

    for_each_sample: a number that the part takes as a tensor (B), one for each sample.
    """

    source: Source
    name: str
    value: Any
    kind: PortType | None
    for_each_sample: bool = False


def plan_part(
    name: str,
    ops: Sequence[Op],
    examples: Sequence[ExampleValue],
    constants: Mapping[Source, Any],
    results: Sequence[ExampleValue],
    in_loop: bool = False,
) -> PartPlan:
    """The part of some operations.

    examples: the values that they read. constants: those that are the same in every run. results: the values that other
    operations read.

    Raises ``ExportError`` for a model that has a text ``not_exportable``: why no graph can hold it, and what to do.
    """
    for op in ops:
        for source in op.sources():
            if isinstance(source, Output) and (reason := getattr(constants.get(source), "not_exportable", "")):
                why, _, remedy = reason.partition("; ")
                raise ExportError(f"nodes.{source.op} gives a model that {why}", remedy, place=str(op.mark))
    sources = [result.source for result in results]
    bound_values: dict[Any, Any] = {**constants, **{call.key: call.spec.function for call in list_calls(ops)}}
    inputs: list[PartInput] = []
    spans: list[tuple[ExampleValue, int]] = []
    for example in examples:
        leaves = _leaves(example)
        giver = example.source.op if isinstance(example.source, Output) else example.name
        inputs += [PartInput(leaf.full_name(example.name), leaf.tensor, leaf.axes, giver) for leaf in leaves]
        spans.append((example, len(leaves)))
    outputs = [leaf.full_name(result.name) for result in results for leaf in tensor_leaves(result.value, result.kind)]

    def function_of(bound_values: Mapping[Any, Any]) -> Callable[..., tuple[Any, ...]]:
        calls = {  # without checks of their links, which the example run has checked
            op.key: op
            if op.has_blocks
            else replace(op, checks=(), spec=replace(op.spec, function=bound_values[op.key]))
            for op in ops
        }
        block = flatten_block(calls, sources, frozenset({"batch"}))
        constant_values = {source: bound_values[source] for source in constants}

        def function(*tensors: Any) -> tuple[Any, ...]:
            values, offset = dict(constant_values), 0
            for example, count in spans:
                flat = tensors[offset : offset + count]
                values[example.source] = flat[0] if is_number(example.value) else rebuild(example.value, flat)
                offset += count
            results_by_source = run_traced(block, values)
            return tuple(leaf.tensor for source in sources for leaf in tensor_leaves(results_by_source[source]))

        return function

    def cast(dtype: Any) -> Callable[..., tuple[Any, ...]]:
        return function_of(cast_models(bound_values, dtype))

    keys = tuple(op.key for op in ops)
    models = tuple(find_models(list(bound_values.values())))
    return PartPlan(name, tuple(inputs), tuple(outputs), function_of(bound_values), keys, cast, in_loop, models)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _leaves(example: ExampleValue) -> list[Leaf]:
    """The tensors of a value; a number becomes a tensor of float32 or int64, without axes or with one for the batch."""
    if is_number(example.value):
        dtype = torch.float32 if isinstance(example.value, float) else torch.int64
        if example.for_each_sample:
            return [Leaf("", torch.tensor([example.value], dtype=dtype), ("B",))]
        return [Leaf("", torch.tensor(example.value, dtype=dtype), ())]
    return tensor_leaves(example.value, example.kind)


def name_axes(plan: PartPlan) -> list[dict[int, str]]:
    """The names of the free axes of each input, by position: axes with the same letter and size share a name.

    Leading axes that are separate from the batch have a name for each giver; if all are, the first is the batch.
    """
    names: dict[tuple[str, int | str], str] = {}
    names_by_input = []
    batch = batch_size(plan)
    batch_giver = (
        None
        if any("B" in part_input.axes for part_input in plan.inputs)
        else next((i.giver for i in plan.inputs if "A" in i.axes), None)
    )
    for part_input in plan.inputs:
        input_names: dict[int, str] = {}
        for position, axis in enumerate(part_input.axes):
            if not isinstance(axis, str):
                continue
            letter = "B" if axis == "A" and part_input.giver == batch_giver else axis
            size = int(part_input.example.shape[position])
            key = (letter, part_input.giver if axis == "A" else batch if axis == "B" else size)
            used_count = sum(used_letter == letter for used_letter, _ in names)
            input_names[position] = names.setdefault(
                key, DYNAMIC[letter] + (f"_{used_count + 1}" if used_count else "")
            )
        names_by_input.append(input_names)
    return names_by_input


def batch_size(plan: PartPlan) -> int:
    """The batch size of a part's examples: the largest, since a leading axis of 1 is repeated for the batch."""
    sizes = [
        part_input.example.shape[i]
        for part_input in plan.inputs
        for i, axis in enumerate(part_input.axes)
        if axis == "B"
    ]
    return max(sizes, default=1)


def cut_batch(plan: PartPlan, samples: int = FEW_SAMPLES) -> PartPlan:
    """The plan with at most so many samples in its examples, with which it may not run."""
    inputs = []
    for part_input in plan.inputs:
        example = part_input.example
        for position, axis in enumerate(part_input.axes):
            if axis == "B":
                example = example.narrow(position, 0, min(samples, example.shape[position]))
        inputs.append(replace(part_input, example=example.contiguous()))
    return replace(plan, inputs=tuple(inputs))


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
        first = next((leaf for leaf in calls[0] if isinstance(leaf, torch.Tensor)), None)
        return None if first is None else [first.shape[0]] * len(calls)

    def are_equal(self, a: Tensor, b: Tensor) -> bool:
        """Whether sizes are equal statically or in the example. The latter are constrained to be equal in the graph."""
        return a.ndim == b.ndim and all(
            torch_private.statically_known_true(x == y) or (_hint(x) == _hint(y) and bool(x == y))
            for x, y in zip(a.shape[1:], b.shape[1:], strict=True)
        )

    def expand(self, tensor: Tensor, length: Any) -> Tensor:
        return tensor.expand(length, *tensor.shape[1:])

    def has_batch(self, tensor: Tensor, length: Any) -> bool:
        if tensor.ndim == 0:
            return False
        return torch_private.statically_known_true(
            tensor.shape[0] == length
        ) and not torch_private.statically_known_true(length == 1)

    def divide(self, tensor: Tensor, lengths: Sequence[Any]) -> Any:
        return tensor.unflatten(0, (len(lengths), lengths[0]))


def _hint(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint)

"""A traced part: some operations as one function of flat tensors, with examples and the axes that may change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guidegraph.graph.batch import BatchCall
from guidegraph.graph.call import arguments, fail, store
from guidegraph.graph.errors import NodeError
from guidegraph.graph.export.leaves import DYNAMIC, Axes, Leaf, leaves_of, rebuilt
from guidegraph.graph.export.precision import cast_models
from guidegraph.graph.ir import Call, Op, Output, Source
from guidegraph.graph.plan import flat_region
from guidegraph.graph.steps import RegionPlan, Step
from guidegraph.graph.types import PortType, is_tensor
from guidegraph.graph.weights import models_in


@dataclass(frozen=True)
class PartInput:
    """A tensor that a part is given: its name, an example, what its axes are, and the key of what gives it."""

    name: str
    example: Any
    axes: Axes
    giver: str = ""


@dataclass(frozen=True)
class PartPlan:
    """What is traced. function: the examples' tensors, in order, to the outputs' tensors, in order.

    in_loop: it is of a loop's body, whose carries are of one batch. cast: the same function with its models in another
    dtype. models: those in it.
    """

    name: str
    inputs: tuple[PartInput, ...]
    outputs: tuple[str, ...]
    function: Callable[..., tuple[Any, ...]]
    keys: tuple[str, ...]
    cast: Callable[[Any], Callable[..., tuple[Any, ...]]] | None = None
    in_loop: bool = False
    models: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Given:
    """A value that a part reads from outside: what it is called, an example, and its type."""

    source: Source
    name: str
    value: Any
    kind: PortType | None


def plan_part(
    name: str,
    ops: Sequence[Op],
    examples: Sequence[Given],
    constants: Mapping[Source, Any],
    results: Sequence[Given],
    in_loop: bool = False,
) -> PartPlan:
    """The function of some operations. constants: what they read that is the same in every run.

    results: what others read of them, with examples.
    """
    sources = [result.source for result in results]
    bound_values: dict[Any, Any] = {**constants, **{op.key: op.spec.function for op in ops if isinstance(op, Call)}}
    inputs: list[PartInput] = []
    spans: list[tuple[Given, int]] = []
    for example in examples:
        leaves = _leaves(example)
        giver = example.source.op if isinstance(example.source, Output) else example.name
        inputs += [PartInput(leaf.full_name(example.name), leaf.tensor, leaf.axes, giver) for leaf in leaves]
        spans.append((example, len(leaves)))
    outputs = [leaf.full_name(result.name) for result in results for leaf in leaves_of(result.value, result.kind)]

    def function_of(bound_values: Mapping[Any, Any]) -> Callable[..., tuple[Any, ...]]:
        calls = {op.key: _with_function(op, bound_values[op.key]) if isinstance(op, Call) else op for op in ops}
        region = flat_region(calls, sources, frozenset({"batch"}))
        constant_values = {source: bound_values[source] for source in constants}

        def function(*tensors: Any) -> tuple[Any, ...]:
            values, offset = dict(constant_values), 0
            for example, count in spans:
                flat = tensors[offset : offset + count]
                values[example.source] = flat[0] if is_number(example.value) else rebuilt(example.value, flat)
                offset += count
            results_by_source = run_traced(region, values)
            return tuple(leaf.tensor for source in sources for leaf in leaves_of(results_by_source[source]))

        return function

    def cast(dtype: Any) -> Callable[..., tuple[Any, ...]]:
        return function_of(cast_models(bound_values, dtype))

    keys = tuple(op.key for op in ops)
    models = tuple(models_in(list(bound_values.values())))
    return PartPlan(name, tuple(inputs), tuple(outputs), function_of(bound_values), keys, cast, in_loop, models)


def _with_function(call: Call, function: Callable[..., Any]) -> Call:
    """The call of a function, such as the method of a model in another dtype; the example run has checked its links."""
    return replace(call, checks=(), spec=replace(call.spec, function=function))


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _leaves(example: Given) -> list[Leaf]:
    """The tensors of a value; a number is one without axes, float32 or int64."""
    import torch

    if is_number(example.value):
        dtype = torch.float32 if isinstance(example.value, float) else torch.int64
        return [Leaf("", torch.tensor(example.value, dtype=dtype), ())]
    return leaves_of(example.value, example.kind)


def run_traced(region: RegionPlan, values: Mapping[Source, Any]) -> dict[Source, Any]:
    """Run a region's steps on values that are being traced: siblings are joined without looking at sizes."""
    slots: list[Any] = [None] * region.size
    for slot, value in region.constants:
        slots[slot] = value
    for source, slot in region.inputs:
        slots[slot] = values[source]
    for step in region.steps:
        try:
            if step.members:
                _run_batch(step, slots)
            else:
                _run_step(step, slots)
        except NodeError:
            raise
        except (Exception, SystemExit) as error:
            raise fail(step, error) from error
    return {source: slots[slot] for source, slot in region.results.items()}


def _run_step(step: Step, slots: list[Any]) -> None:
    assert step.function is not None
    args, by_name = arguments(step, slots)
    store(step, slots, step.function(*args, **by_name))


def _run_batch(step: Step, slots: list[Any]) -> None:
    """One call of a batch of siblings along a leading axis that is never looked at, or each alone where they differ."""
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten

    first = step.members[0]
    call = first.op
    assert isinstance(call, Call)
    assert isinstance(step.op, BatchCall)
    assert first.function is not None
    gathered_arguments = [arguments(member, slots) for member in step.members]
    leading = list(call.spec.inputs)[: len(first.args)]
    batchable = [leading.index(p) if p in leading else p for p in call.spec.batchable if p in call.inputs]
    args, by_name = list(gathered_arguments[0][0]), dict(gathered_arguments[0][1])
    batch = None
    for port in batchable:
        flat = [tree_flatten(a[port] if isinstance(port, int) else n[port]) for a, n in gathered_arguments]
        if any(not _can_join(flat[0], other) for other in flat[1:]):
            for member in step.members:
                _run_step(member, slots)
            return
        if batch is None:
            batch = flat[0][0][0].shape[0]
        joined = [
            torch.cat([leaf.expand(batch, *leaf.shape[1:]) for leaf in column]) if is_tensor(column[0]) else column[0]
            for column in zip(*(leaves for leaves, _ in flat), strict=True)
        ]
        value = tree_unflatten(joined, flat[0][1])
        if isinstance(port, int):
            args[port] = value
        else:
            by_name[port] = value
    out, spec = tree_flatten(first.function(*args, **by_name))
    split = [leaf.unflatten(0, (len(step.members), batch)) if is_tensor(leaf) else leaf for leaf in out]
    for i, member in enumerate(step.members):
        store(member, slots, tree_unflatten([leaf[i] if is_tensor(leaf) else leaf for leaf in split], spec))


def _can_join(a: Any, b: Any) -> bool:
    """Whether two flat values can be joined: one structure, dtypes and sizes, but for the leading axis."""
    (first, spec), (second, second_spec) = a, b
    return spec == second_spec and all(
        x.dtype == y.dtype and _same_sizes(x, y) if is_tensor(x) and is_tensor(y) else x is y or x == y
        for x, y in zip(first, second, strict=True)
    )


def _same_sizes(x: Any, y: Any) -> bool:
    """Whether two tensors have the same sizes but for the leading axis: free ones that differ in the example do not.

    Sizes of which that is not known, but which are equal in the example, are held to be equal from then on.
    """
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return x.ndim == y.ndim and all(
        statically_known_true(a == b) or (_hint(a) == _hint(b) and bool(a == b))
        for a, b in zip(x.shape[1:], y.shape[1:], strict=True)
    )


def _hint(size: Any) -> int:
    return size if isinstance(size, int) else int(size.node.hint)


def symbols(plan: PartPlan) -> list[dict[int, str]]:
    """The names of the free axes of each input, by position: axes of one letter and one size have one name.

    Leading axes that are apart from the batch have one name for each giver; where all are, the first is the batch.
    """
    names: dict[tuple[str, int | str], str] = {}
    names_by_input = []
    batch = batch_of(plan)
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


def batch_of(plan: PartPlan) -> int:
    """The batch of a part's examples: what has a leading axis of 1 serves it whole."""
    sizes = [
        part_input.example.shape[i]
        for part_input in plan.inputs
        for i, axis in enumerate(part_input.axes)
        if axis == "B"
    ]
    return max(sizes, default=1)

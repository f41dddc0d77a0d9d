"""Whether unlike samples can share a call of a traced part.

The runtime joins the calls of several runs along the batch. That needs a part in which each sample depends on its own
inputs alone, and numbers, such as a scale, that it takes one for each sample. Which samples a result depends on is
followed operator by operator; tables, of which each run has its own, are tried with two samples and with one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from guidegraph.graph.errors import NodeError
from guidegraph.graph.export.partition.free_axes import silence_logger
from guidegraph.graph.export.partition.leaves import Axes, tensor_leaves
from guidegraph.graph.export.partition.sample_flow import find_mixing
from guidegraph.graph.export.partition.subgraph import ExampleValue, PartInput, PartPlan, cut_batch, name_axes
from guidegraph.graph.ir import Op, list_calls
from guidegraph.graph.sources import Source
from guidegraph.graph.types import SequenceOf, Tensor

SAMPLES = 2
TOLERANCE = 1e-4
INDICES = "leaf_indices"
"""The attribute of a structured type that tells of which axis, a letter, an integer field counts the entries."""


@dataclass(frozen=True)
class JoinablePart:
    """A part, the values that it reads, and its setting for the runtime: how its calls join, or why they do not."""

    part: PartPlan
    examples: Sequence[ExampleValue]
    joins: dict[str, Any]


def make_joinable(
    ops: Sequence[Op],
    examples: Sequence[ExampleValue],
    results: Sequence[ExampleValue],
    build: Callable[[Sequence[ExampleValue]], PartPlan],
) -> JoinablePart:
    """The part with a row and a number for each sample, or with those for all samples if its nodes do not take that.

    The setting is ``{"indices": {name: axis}, "padded": [axis]}`` or ``{"why": text}``: the values that count the rows
    of a table, and the axes along which zeros change nothing.
    """
    marked = [
        replace(example, for_each_sample=isinstance(example.value, float) and _takes_tensor(ops, example.source))
        for example in examples
    ]
    if any(example.for_each_sample for example in marked):
        part = build(marked)
        joins = _find_joins(part, marked, results)
        if "why" not in joins:
            return JoinablePart(part, marked, joins)
    part = build(examples)
    joins = _find_joins(part, examples, results)
    if "why" in joins:  # one row of each table for all samples
        names = {f"{value.name}.{path}" for value in examples for path in getattr(type(value.value), INDICES, {})}
        inputs = [
            replace(item, example=item.example[:1], axes=(1,)) if item.name in names else item for item in part.inputs
        ]
        part = replace(part, inputs=tuple(inputs))
    return JoinablePart(part, examples, joins)


def _takes_tensor(ops: Sequence[Op], source: Source) -> bool:
    """Whether all calls that read a number take a tensor (B) too. One that is joined with its siblings does not."""
    reads = [(call, name) for call in list_calls(ops) for name, read in call.links() if read == source]
    return bool(reads) and all(
        not call.spec.batchable
        and name in call.spec.settings
        and any(
            not isinstance(kind, SequenceOf) and kind is Tensor for kind in call.spec.settings[name].type.alternatives
        )
        for call, name in reads
    )


def _find_joins(part: PartPlan, examples: Sequence[ExampleValue], results: Sequence[ExampleValue]) -> dict[str, Any]:
    axis_names = name_axes(part)
    by_letter: dict[str, set[str]] = {}
    for item, names in zip(part.inputs, axis_names, strict=True):
        for position, name in names.items():
            by_letter.setdefault(str(item.axes[position]), set()).add(name)
    indices: dict[str, str] = {}
    for value in (*examples, *results):
        for path, letter in getattr(type(value.value), INDICES, {}).items():
            if len(tables := by_letter.get(letter, set())) > 1:
                return {"why": f"it reads tables of {len(tables)} lengths, {', '.join(sorted(tables))}"}
            indices |= {f"{value.name}.{path}": next(iter(tables))} if tables else {}
    if (why := _find_problem(part, results, indices, axis_names)) is not None:
        return {"why": why}
    padded = [name for name in sorted(by_letter.get("M", ())) if _ignores_padding(part, axis_names, name)]
    return {"indices": indices, **({"padded": padded} if padded else {})}


def _find_problem(
    part: PartPlan,
    results: Sequence[ExampleValue],
    indices: Mapping[str, str],
    axis_names: Sequence[Mapping[int, str]],
) -> str | None:
    """The reason why samples cannot share a call: one depends on the others, or a result is for all samples."""
    axes = [leaf.axes for result in results for leaf in tensor_leaves(result.value, result.kind)]
    for name, letters in zip(part.outputs, axes, strict=True):
        if "B" not in letters:
            return f"it gives '{name}', which is one value for all samples"
    try:
        with silence_logger("torch._subclasses.fake_tensor"):  # which prints an error beside raising it
            mixing = find_mixing(
                part.function,
                [item.example for item in part.inputs],
                [item.axes.index("B") if "B" in item.axes else None for item in part.inputs],
                [letters.index("B") for letters in axes],
            )
    except (NodeError, RuntimeError) as error:
        tried = _try_two_samples(part, indices, axis_names, axes)
        return tried or f"its samples cannot be followed: {_describe_failure(error)}"
    if mixing is not None:
        return (
            f"a sample of '{part.outputs[mixing.output]}' depends on the other samples of the batch{mixing.describe()}"
        )
    return _try_two_samples(part, indices, axis_names, axes)


def _try_two_samples(
    part: PartPlan,
    indices: Mapping[str, str],
    axis_names: Sequence[Mapping[int, str]],
    axes: Sequence[Axes],
) -> str | None:
    """The reason why two samples cannot share a call, or None.

    Two samples, of which the second counts the rows of a second copy of the tables, are compared with that one alone.
    axes: of the results.
    """
    samples = _make_samples(cut_batch(part, SAMPLES).inputs)
    last_sample = [
        tensor.narrow(item.axes.index("B"), -1, 1).contiguous() if "B" in item.axes else tensor
        for item, tensor in zip(part.inputs, samples, strict=True)
    ]
    inputs, rows = _copy_tables(part, samples, indices, axis_names)
    try:
        with torch.no_grad():
            together, alone = part.function(*inputs), part.function(*last_sample)
    except (NodeError, RuntimeError) as error:
        return f"it does not run with two unlike samples: {_describe_failure(error)}"
    for name, joined, expected, letters in zip(part.outputs, together, alone, axes, strict=True):
        axis = letters.index("B")
        last = joined.narrow(axis, -1, 1) if joined.shape[axis] == SAMPLES else joined
        if not _are_close(last, expected + rows if name in indices else expected):
            return f"a sample of '{name}' depends on the other samples of the batch"
    return None


def _describe_failure(error: Exception) -> str:
    if isinstance(error, NodeError):
        return f"{error.path} ({error.node_id}): {str(error.cause).splitlines()[0]:.200}"
    return f"{str(error).splitlines()[0]:.200}"


def _copy_tables(
    part: PartPlan, samples: Sequence[Any], indices: Mapping[str, str], axis_names: Sequence[Mapping[int, str]]
) -> tuple[list[Any], int]:
    """Inputs in which the second sample counts the rows of a second copy of the tables, and their number of rows."""
    inputs, rows = [], 0
    for tensor, names in zip(samples, axis_names, strict=True):
        for position in (position for position, name in names.items() if name in indices.values()):
            rows = tensor.shape[position]
            tensor = torch.cat([tensor, tensor], position)
        inputs.append(tensor)
    moved = torch.tensor([0, rows])
    return [
        tensor + moved.to(tensor) if item.name in indices else tensor
        for item, tensor in zip(part.inputs, inputs, strict=True)
    ], rows


def _make_samples(inputs: Sequence[PartInput]) -> list[Any]:
    """Inputs for two unlike samples: the example, after its mirror image at half the size, in its range too."""
    samples = []
    for item in inputs:
        sizes = [SAMPLES if axis == "B" else size for axis, size in zip(item.axes, item.example.shape, strict=True)]
        value = item.example.expand(sizes).clone()
        if "B" in item.axes:
            first = value.select(item.axes.index("B"), 0)
            if value.is_floating_point():
                first.copy_(first.flip(tuple(range(first.ndim))) / 2)
            elif value.dtype == torch.int64:
                first.zero_()  # another row of a table, another label
        samples.append(value)
    return samples


def _are_close(a: Any, b: Any) -> bool:
    if a.shape != b.shape:
        return False
    scale = float(b.abs().max()) if b.numel() and b.is_floating_point() else 1.0
    return bool(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE * max(scale, 1e-6), equal_nan=True))


def _ignores_padding(part: PartPlan, names: Sequence[Mapping[int, str]], axis: str) -> bool:
    """Whether zeros at the end of an axis, which a mask marks, change no result."""
    inputs = _make_samples(cut_batch(part, SAMPLES).inputs)
    longer, is_masked = [], False
    for tensor, axis_names in zip(inputs, names, strict=True):
        for position in [position for position, name in axis_names.items() if name == axis]:
            sizes = [3 if i == position else size for i, size in enumerate(tensor.shape)]
            tensor = torch.cat([tensor, tensor.new_zeros(sizes)], position)
            is_masked = is_masked or tensor.dtype == torch.bool
        longer.append(tensor)
    if not is_masked:
        return False
    try:
        with torch.no_grad():
            return all(map(_are_close, part.function(*longer), part.function(*inputs)))
    except (NodeError, RuntimeError):
        return False

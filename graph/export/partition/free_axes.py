"""Finding the sizes that a part accepts, by running it at other sizes before it is traced."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from guidegraph.graph.export.onnx.axes import Axis
from guidegraph.graph.export.onnx.fake_sizes import ShortFakes
from guidegraph.graph.export.partition.subgraph import PartPlan, batch_size, cut_batch, name_axes, record_separate_calls
from guidegraph_runtime.bundle.manifest_types import BATCH

MULTIPLES = (1, 2, 4, 8, 16, 32, 64, 128)
MAX_SIZE = 1 << 16


def find_free_axes(part: PartPlan) -> tuple[PartPlan, list[dict[int, Axis]]]:
    """The part with its examples expanded to one batch size, and the free axes of each input.

    A free axis has sizes that are multiples of the smallest power of two by which it can grow. An axis that allows only
    the example's size is fixed. If that is the batch, examples that are the same for all samples stay as they are: the
    runtime repeats them along a free axis alone.
    """
    examples, batch, inputs = part.inputs, batch_size(part), []
    for part_input in part.inputs:
        example = part_input.example
        if "B" in part_input.axes:
            sizes = [batch if axis == "B" else size for axis, size in zip(part_input.axes, example.shape, strict=True)]
            example = example.expand(sizes).contiguous()
        inputs.append(replace(part_input, example=example))
    part = replace(part, inputs=tuple(inputs))
    names = name_axes(part)
    small = _with_small_batch(part)
    axes: dict[str, Axis | None] = {}
    sizes_by_name: dict[str, int] = {}
    for part_input, input_names in zip(part.inputs, names, strict=True):
        for position, name in input_names.items():
            sizes_by_name.setdefault(name, int(part_input.example.shape[position]))
    for name, size in sizes_by_name.items():
        multiple = _multiple(small, names, name)
        axes[name] = None if multiple is None or size % multiple else Axis(name, multiple, MAX_SIZE, multiple)
    free = [
        {position: axis for position, name in input_names.items() if (axis := axes[name]) is not None}
        for input_names in names
    ]
    return (part if axes.get(BATCH) is not None else replace(part, inputs=examples)), free


def separate_batches(part: PartPlan) -> PartPlan:
    """The part with letter A for the leading axis of each input that must not be expanded to the batch size.

    A run may repeat a leading axis of 1 for the whole batch. If the part, for example, concatenates batches, that would
    change the result. Such inputs are found by the output shapes for size 1 there and 2 elsewhere.
    """
    givers = dict.fromkeys(part_input.giver for part_input in part.inputs if "B" in part_input.axes)
    if not givers:
        return part
    fakes = ShortFakes(allow_non_fake_inputs=True)
    batch_shapes = _output_shapes(part, None, fakes)
    if batch_shapes is None:
        return part
    own_batch: set[str] = set()
    for giver in givers:
        single_shapes = _output_shapes(part, giver, fakes)
        if single_shapes is not None and single_shapes != batch_shapes:
            own_batch.add(giver)
    separate = [
        replace(each, axes=tuple("A" if axis == "B" and each.giver in own_batch else axis for axis in each.axes))
        for each in part.inputs
    ]
    return replace(part, inputs=tuple(separate))


def _output_shapes(part: PartPlan, single: str | None, fakes: ShortFakes) -> list[tuple[int, ...]] | None:
    """The output shapes for a batch of 2, with 1 sample in the values of `single`; None if the part fails."""
    with torch.no_grad(), silence_logger("torch._subclasses.fake_tensor"), fakes:
        tensors = []
        for part_input in part.inputs:
            size = 1 if part_input.giver == single else 2
            shape = [
                size if axis == "B" else side
                for axis, side in zip(part_input.axes, part_input.example.shape, strict=True)
            ]
            tensors.append(torch.empty(shape, dtype=part_input.example.dtype, device=part_input.example.device))
        try:
            return [tuple(map(int, tensor.shape)) for tensor in part.function(*tensors)]
        except Exception:  # of any type: the part does not run
            return None


@contextmanager
def silence_logger(name: str) -> Iterator[None]:
    """A context that silences a library's logger during expected errors."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _with_small_batch(part: PartPlan) -> PartPlan:
    """The part with examples of two samples, which run faster, if it runs with them."""
    small = cut_batch(part)
    if all(a.shape == b.shape for a, b in zip(_examples(small), _examples(part), strict=True)):
        return part
    try:
        _separate_calls(small, _examples(small))
    except Exception:  # of any type: the part does not run with two samples
        return part
    return small


def _examples(part: PartPlan) -> list[Any]:
    return [part_input.example for part_input in part.inputs]


def _multiple(part: PartPlan, names: Sequence[Mapping[int, str]], name: str) -> int | None:
    """The smallest power of two by which an axis may grow; None if it may not grow.

    Sibling calls that join at the example's size and not at a larger one fix the axis: the graph holds the joined call.
    """
    for step in MULTIPLES:
        tensors = [
            _grow(part_input.example, [position for position, symbol in input_names.items() if symbol == name], step)
            for part_input, input_names in zip(part.inputs, names, strict=True)
        ]
        try:
            separate = _separate_calls(part, tensors)
        except Exception:  # of any type: the part does not run at this size
            continue
        if separate and separate - _separate_calls(part, _examples(part)):
            return None
        return step
    return None


def _separate_calls(part: PartPlan, tensors: Sequence[Any]) -> set[str]:
    """Run a part, and return the keys of sibling calls that did not join."""
    with torch.no_grad(), record_separate_calls() as keys:
        part.function(*tensors)
    return keys


def _grow(tensor: Any, axes: Sequence[int], growth: int) -> Any:
    """A tensor extended along some axes with its own first elements."""
    for axis in axes:
        size = tensor.shape[axis]
        tensor = tensor.index_select(axis, torch.arange(size + growth, device=tensor.device) % size)
    return tensor

"""Numbers that a traced part takes one for each sample, so that unlike samples can share a call of its graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from guidegraph.graph.errors import NodeError
from guidegraph.graph.export.partition.leaves import tensor_leaves
from guidegraph.graph.export.partition.subgraph import ExampleValue, PartPlan, cut_batch
from guidegraph.graph.ir import Call, Op
from guidegraph.graph.sources import Source
from guidegraph.graph.types import PortType, SequenceOf, Tensor

SAMPLES = 2


def mark_sample_settings(ops: Sequence[Op], examples: Sequence[ExampleValue]) -> list[ExampleValue]:
    """The example values, with a mark on each number that every reader takes as a tensor (B) too.

    A reader whose calls are joined takes one number only, since a joined call has more samples than such a tensor.
    """
    return [
        replace(example, for_each_sample=isinstance(example.value, float) and _takes_tensor(ops, example.source))
        for example in examples
    ]


def _takes_tensor(ops: Sequence[Op], source: Source) -> bool:
    reads = [(op, name) for op in ops if isinstance(op, Call) for name, read in op.links() if read == source]
    return bool(reads) and all(
        not op.spec.batchable and name in op.spec.settings and _allows_tensor(op, name) for op, name in reads
    )


def _allows_tensor(call: Call, name: str) -> bool:
    kind: PortType = call.spec.settings[name].type
    return any(not isinstance(kind, SequenceOf) and kind is Tensor for kind in kind.alternatives)


def takes_sample_settings(part: PartPlan, shared: PartPlan, results: Sequence[ExampleValue]) -> bool:
    """Whether the last of some samples, each with numbers of its own, is that sample of a call with its numbers for all.

    part: takes such numbers one for each sample; shared: takes one for all. A node whose setting is declared to take
    a tensor (B), but that does not give it the axes of its samples, is found here.
    """
    import torch

    small, small_shared = cut_batch(part, SAMPLES), cut_batch(shared, SAMPLES)
    generator = torch.Generator().manual_seed(0)
    given, given_shared = [], []
    for item, shared_item in zip(small.inputs, small_shared.inputs, strict=True):
        example = shared_item.example
        if item.axes != shared_item.axes:
            numbers = example + torch.arange(SAMPLES) / 4
            given.append(numbers.to(example.dtype))
            given_shared.append(numbers[-1].to(example.dtype))
            continue
        sizes = [SAMPLES if axis == "B" else size for axis, size in zip(item.axes, example.shape, strict=True)]
        value = example.expand(sizes)
        if value.is_floating_point() and "B" in item.axes:
            value = value + 0.1 * torch.rand(sizes, generator=generator).to(value)
        given.append(value.contiguous())
        given_shared.append(given[-1])
    try:
        with torch.no_grad():
            outputs, expected = part.function(*given), shared.function(*given_shared)
    except (NodeError, RuntimeError):
        return False
    axes = [leaf.axes for result in results for leaf in tensor_leaves(result.value, result.kind)]
    return all(
        a.shape == b.shape
        and ("B" not in names or torch.allclose(_last(a, names), _last(b, names), rtol=1e-4, atol=1e-4, equal_nan=True))
        for a, b, names in zip(outputs, expected, axes, strict=True)
    )


def _last(tensor: Any, names: Sequence[str | int]) -> Any:
    """The last sample of a result."""
    return tensor.select(names.index("B"), -1)

"""Batch axes of a node's arguments: find them, count the samples, take one sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guidegraph.graph.export.partition.leaves import Leaf
from guidegraph.graph.port import Port
from guidegraph.graph.types import PortType, SequenceOf
from guidegraph.graph.types import Tensor as AnyTensor
from guidegraph.testing.arguments import Arguments
from guidegraph.testing.case import NodeCase

WIDER = 4
"""The increase in width: divisible by 4, so that a latent may be halved twice."""


def declares_axes(kind: PortType, value: Any, leaf: Leaf) -> bool:
    """Whether a type declares a tensor's axes. If it does not, the first axis is taken as the batch."""
    if leaf.path and leaf.path in getattr(type(value), "leaf_axes", {}):
        return True
    return any(
        not isinstance(alternative, SequenceOf)
        and AnyTensor in alternative.__mro__
        and getattr(alternative, "axes", None) is not None
        for alternative in kind.alternatives
    )


def batch_size(case: NodeCase, arguments: Arguments) -> int | None:
    """The number of samples of the inputs; None if no input has a batch axis.

    Types that declare their axes decide before tensors whose first axis is taken as the batch.
    """
    declared: list[int] = []
    guessed: list[int] = []
    for port, leaf in arguments.leaves(case):
        if "B" in leaf.axes:
            value = arguments.ports.get(port.name, arguments.settings.get(port.name))
            sizes = declared if declares_axes(port.type, value, leaf) or leaf.tensor.ndim == 4 else guessed
            sizes.append(int(leaf.tensor.shape[leaf.axes.index("B")]))
    texts = [len(value) for value in arguments.ports.values() if is_texts(value)]
    return max(declared or guessed or texts, default=None)


def is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 1 and all(isinstance(text, str) for text in value)


def take_sample(case: NodeCase, arguments: Arguments, batch: int, index: int) -> Arguments:
    """The arguments of one sample, with a batch axis of 1. Values shared by all samples stay."""

    def cut(port: Port, leaf: Leaf) -> Tensor:
        tensor: Tensor = leaf.tensor
        return narrow_to_sample(tensor, leaf, batch, index)

    sample = arguments.map_tensors(case, cut)
    texts = {n: [v[index]] for n, v in arguments.ports.items() if is_texts(v) and len(v) == batch}
    return Arguments({**sample.ports, **texts}, sample.settings)


def narrow_to_sample(tensor: Tensor, leaf: Leaf, batch: int, index: int) -> Tensor:
    """A tensor with the axes of a leaf, cut to one sample."""
    for axis, letter in enumerate(leaf.axes):
        if letter == "B" and tensor.shape[axis] == batch:
            tensor = tensor.narrow(axis, index, 1)
    return tensor


def widen(port: Port, leaf: Leaf) -> Tensor:
    """A leaf's tensor, widened by repeating its first columns."""
    tensor: Tensor = leaf.tensor
    for axis, letter in enumerate(leaf.axes):
        if letter == "W":
            index = torch.arange(tensor.shape[axis] + WIDER) % tensor.shape[axis]
            tensor = tensor.index_select(axis, index)
    return tensor

"""Which axes are the batch, how many samples there are, and one of them alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from guidegraph.graph.export.leaves import Leaf
from guidegraph.graph.node import Port
from guidegraph.graph.types import PortType, SequenceOf
from guidegraph.graph.types import Tensor as AnyTensor
from guidegraph.testing.case import NodeCase
from guidegraph.testing.values import Arguments

WIDER = 4
"""By how much the width grows: also where it is that of a latent, and halved twice."""


def declares_axes(kind: PortType, value: Any, leaf: Leaf) -> bool:
    """Whether a type says what a tensor's axes are; where it does not, the first is taken for the batch."""
    if leaf.path and leaf.path in getattr(type(value), "leaf_axes", {}):
        return True
    return any(
        not isinstance(one, SequenceOf) and AnyTensor in one.__mro__ and getattr(one, "axes", None) is not None
        for one in kind.alternatives
    )


def batch_of(case: NodeCase, given: Arguments) -> int | None:
    """How many samples the inputs have; None where no input has a batch axis.

    The types that say what their axes are decide, before tensors whose first axis is taken for the batch.
    """
    declared: list[int] = []
    guessed: list[int] = []
    for port, leaf in given.leaves(case):
        if "B" in leaf.axes:
            value = given.ports.get(port.name, given.settings.get(port.name))
            sizes = declared if declares_axes(port.type, value, leaf) or leaf.tensor.ndim == 4 else guessed
            sizes.append(int(leaf.tensor.shape[leaf.axes.index("B")]))
    texts = [len(value) for value in given.ports.values() if is_texts(value)]
    return max(declared or guessed or texts, default=None)


def is_texts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 1 and all(isinstance(one, str) for one in value)


def sample_of(case: NodeCase, given: Arguments, batch: int, index: int) -> Arguments:
    """The arguments of one sample, with a batch axis of 1; what serves all samples stays."""

    def cut(port: Port, leaf: Leaf) -> Tensor:
        tensor: Tensor = leaf.tensor
        return narrowed(tensor, leaf, batch, index)

    one = given.mapped(case, cut)
    texts = {n: [v[index]] for n, v in given.ports.items() if is_texts(v) and len(v) == batch}
    return Arguments({**one.ports, **texts}, one.settings)


def narrowed(tensor: Tensor, leaf: Leaf, batch: int, index: int) -> Tensor:
    """A leaf's tensor, or that of its place in another value, cut to one sample."""
    for axis, letter in enumerate(leaf.axes):
        if letter == "B" and tensor.shape[axis] == batch:
            tensor = tensor.narrow(axis, index, 1)
    return tensor


def wider(port: Port, leaf: Leaf) -> Tensor:
    """A leaf's tensor, wider by its own first columns again."""
    tensor: Tensor = leaf.tensor
    for axis, letter in enumerate(leaf.axes):
        if letter == "W":
            index = torch.arange(tensor.shape[axis] + WIDER) % tensor.shape[axis]
            tensor = tensor.index_select(axis, index)
    return tensor

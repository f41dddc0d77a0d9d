"""Layers that a layout stores apart and a network has as one: which rows of the joined weight each of them is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LayerRows:
    """The rows of a network's layer that a file stores as a layer of its own.

    layer: the name of the network's layer. start, count: its rows; all of them without a count. swapped: the file has
    the second half of these rows first.
    """

    layer: str
    start: int = 0
    count: int | None = None
    swapped: bool = False

    def arrange(self, tensor: Tensor) -> Tensor:
        """Rows of the file in the order of the network."""
        return torch.cat(tensor.chunk(2)[::-1]) if self.swapped and tensor.ndim else tensor

    def select(self, weight: Tensor) -> Tensor:
        """The rows of a network's weight, a view."""
        return weight if self.count is None else weight[self.start : self.start + self.count]


def have_equal_rows(tensors: Sequence[Tensor]) -> bool:
    """Whether the rows of tensors have one shape, so that they can be joined along the first axis."""
    return all(tensor.ndim for tensor in tensors) and len({tensor.shape[1:] for tensor in tensors}) == 1


def join_rows(tensors: Mapping[str, Tensor], layers: Mapping[str, LayerRows]) -> dict[str, Tensor]:
    """Rename the weights and biases of a file's layers to the network's, and join those that are rows of one.

    Unknown names stay, and so do the layers of a weight of which rows are missing or of another width; they are left
    over in filling.
    """
    needed = Counter(rows.layer for rows in layers.values())
    parts: dict[str, dict[int, tuple[str, Tensor]]] = {}
    joined: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        layer, _, end = name.rpartition(".")
        if layer not in layers or end not in ("weight", "bias"):
            joined[name] = tensor
            continue
        rows = layers[layer]
        parts.setdefault(f"{rows.layer}.{end}", {})[rows.start] = (name, rows.arrange(tensor))
    for name, pieces in parts.items():
        ordered = [tensor for _, (_, tensor) in sorted(pieces.items())]
        is_whole = len(ordered) == needed[name.rpartition(".")[0]]
        if is_whole and have_equal_rows(ordered):
            joined[name] = ordered[0] if len(ordered) == 1 else torch.cat(ordered)
        else:
            joined |= dict(pieces.values())
    return joined

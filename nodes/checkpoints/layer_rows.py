"""Layers that a layout stores apart and a network has as one: which rows of the joined weight each of them is."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guidegraph.graph.memory.huge_pages import allocate_weight


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
    mapped = list_mapped_files()
    for name, pieces in parts.items():
        ordered = [tensor for _, (_, tensor) in sorted(pieces.items())]
        is_whole = len(ordered) == needed[name.rpartition(".")[0]]
        if is_whole and have_equal_rows(ordered):
            joined[name] = ordered[0] if len(ordered) == 1 else join_mapped(ordered, mapped)
        else:
            joined |= dict(pieces.values())
    return joined


Span = tuple[int, int]
"""The first address of a range of memory, and the one after its last."""

MADV_DONTNEED = 4


def join_mapped(tensors: Sequence[Tensor], mapped: Sequence[Span]) -> Tensor:
    """Join tensors along their first axis. Tensors in files, mapped to the spans, no longer take memory afterwards.

    Their pages leave the process, and come back from the file if the tensors are used again.
    """
    joined = _join(list(tensors))
    for tensor in tensors:
        if not _is_plain(tensor) or not tensor.is_contiguous():
            continue
        start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
        start, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if start < end and any(low <= start and end <= high for low, high in mapped):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED)
    return joined


def _join(tensors: list[Tensor]) -> Tensor:
    """Join tensors with equal rows along their first axis; plain ones of one dtype in memory for weights."""
    first = tensors[0]
    if not all(_is_plain(tensor) and tensor.dtype == first.dtype for tensor in tensors):
        return torch.cat(tensors)
    joined = allocate_weight((sum(len(tensor) for tensor in tensors), *first.shape[1:]), first.dtype)
    return torch.cat(tensors, out=joined)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds its values itself, in the memory of the CPU."""
    return type(tensor) is Tensor and tensor.device.type == "cpu"


def list_mapped_files() -> list[Span]:
    """The ranges of this process's memory that are files, mapped; none on systems other than Linux."""
    if sys.platform != "linux":
        return []
    spans: list[Span] = []
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            low, _, high = addresses.partition("-")
            spans.append((int(low, 16), int(high, 16)))
    return spans

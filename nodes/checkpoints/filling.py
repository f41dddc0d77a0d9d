"""Fills a module with the tensors of a file, cast one at a time."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from guidegraph.graph.device_context import current_device, current_dtype
from guidegraph.graph.memory.huge_pages import allocate_weight
from guidegraph.nodes.models.networks.shells import BoundedBuild, TooManyLayers

MAX_LISTED = 4


Module = TypeVar("Module", bound=nn.Module)


def build_filled(make: Callable[[], Module], tensors: Mapping[str, Tensor], source: str) -> Module:
    """Make a module on the meta device, then `fill` it. Raises ``ValueError`` for far more layers than tensors."""
    try:
        with torch.device("meta"), BoundedBuild(len(tensors)):
            module = make()
    except TooManyLayers as error:
        raise ValueError(f"'{source}' does not fit: {error}") from None
    fill(module, tensors, source)
    return module


def build_text_model(
    config_class: Any,
    model_class: Any,
    settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    name: str,
    source: str,
) -> Any:
    """Make a text model of transformers on the meta device, to be filled with these tensors.

    config_class, model_class: of transformers; settings: fields of its config; name: what it is called. Raises
    ``ValueError`` that names `source` for settings that it refuses, and for far more layers than tensors.
    """
    try:
        config = config_class.from_dict(dict(settings))
        with torch.device("meta"), BoundedBuild(len(tensors)):
            return model_class(config)
    except Exception as error:  # its validators raise many kinds
        raise ValueError(f"'{source}' describes no {name} that transformers can build: {error}") from None


def fill(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Give a module (built on the meta device) the tensors of a file, and freeze it: no gradients, evaluation mode.

    Tensors go to the run's device, floating ones in its dtype, one at a time, so that at most one exists twice. A
    tensor under two names is cast once; one that needs no cast and no move stays memory-mapped. `source` names the file
    in errors. Raises one ``ValueError`` that names all keys that are missing, left over or of another shape, before the
    module changes.
    """
    device, dtype = current_device(), current_dtype()
    expected = module.state_dict()
    check_fit(expected, tensors, source)
    converted: dict[int, Tensor] = {}
    for name in expected:
        tensor = tensors[name]
        if id(tensor) not in converted:
            converted[id(tensor)] = _convert(tensor.detach(), device, dtype)
    module.load_state_dict({name: converted[id(tensors[name])] for name in expected}, strict=True, assign=True)
    module.eval().requires_grad_(False)


def _convert(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The values of a tensor on a device, floating ones in a dtype; the tensor itself if nothing changes."""
    dtype = dtype if tensor.is_floating_point() else tensor.dtype
    if device.type == "cpu" and dtype != tensor.dtype and not tensor.is_meta:
        return allocate_weight(tensor.shape, dtype).copy_(tensor)
    return tensor.to(device=device, dtype=dtype).contiguous()


def check_axes(tensor: Tensor, source: str, name: str, axes: int) -> Tensor:
    """Return the tensor. Raises ``ValueError`` if it has another number of axes or is empty."""
    if tensor.ndim != axes or not tensor.numel():
        raise ValueError(
            f"'{source}' does not fit: {name} has the shape {tuple(tensor.shape)}, and {axes} axes were expected. It "
            "is of a family that is not known: nothing was loaded"
        )
    return tensor


def check_fit(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Compare names, shapes and dtypes of a file's tensors with those that a module expects, without reading values.

    Raises one ``ValueError`` that names `source` and all keys that are missing, left over, of another shape or type.
    """
    missing = [name for name in expected if name not in tensors]
    left_over = [name for name in tensors if name not in expected]
    reshaped = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    retyped = [
        f"{name} {tensors[name].dtype}"
        for name, value in expected.items()
        if name in tensors and tensors[name].is_floating_point() != value.is_floating_point()
    ]
    problems = [
        f"{len(names)} {problem}: {_first(names)}"
        for problem, names in (
            ("missing", missing),
            ("left over", left_over),
            ("of another shape", reshaped),
            ("of another type", retyped),
        )
        if names
    ]
    if problems:
        raise ValueError(
            f"the weights of '{source}' do not fit: {'; '.join(problems)}. It is of another architecture, or "
            "incomplete: nothing was loaded"
        )


def _first(names: Iterable[str]) -> str:
    listed = sorted(names)
    more = f" and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
    return ", ".join(listed[:MAX_LISTED]) + more


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

"""The values of a run for the page, each in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from guidegraph.graph.types import is_tensor
from guidegraph_runtime.printing import visible

MAX_LENGTH = 80
MAX_PARTS = 4
MAX_LINES = 8
MAX_ELEMENTS = 1 << 24
"""The range of a larger tensor is not computed: the run goes on meanwhile."""


def describe_value(value: Any) -> list[str]:
    """A value in a few lines: a tensor by shape, dtype and range, others by their tensors, their text or their type."""
    if is_tensor(value):
        return [_describe_tensor(value)]
    if value is None or isinstance(value, (bool, int, float, str, Path)):
        try:
            text = str(value)
        except ValueError:  # Python writes no integer of more than 4,300 digits
            assert isinstance(value, int)
            text = f"an integer of {value.bit_length()} bits"
        return [_shorten(text)]
    parts = [(name, part) for name, part in _iterate_parts(value) if is_tensor(part)]
    lines = [
        f"{name}: {_describe_tensor(part)}" if name else _describe_tensor(part) for name, part in parts[:MAX_PARTS]
    ]
    if isinstance(value, Sequence | Mapping):
        return [f"{type(value).__name__} of {len(value)}", *lines]
    return [type(value).__name__, *lines]


def describe_preview(preview: str | bytes | None) -> list[str]:
    """The lines of a plugin's preview; none for a picture."""
    lines = preview.splitlines() if isinstance(preview, str) else []
    return [_shorten(line) for line in lines[:MAX_LINES]]


def _iterate_parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in value.items())
    elif hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        yield from (("", part) for part in value)
    elif is_dataclass(value):
        yield from ((item.name, getattr(value, item.name, None)) for item in fields(value))


def has_numbers(tensor: Any) -> bool:
    """Whether the elements of a tensor can be read one by one: it is dense, and neither quantised, nested nor meta."""
    is_special = tensor.is_meta or tensor.is_quantized or tensor.is_nested
    return str(tensor.layout) == "torch.strided" and not is_special


def _describe_tensor(tensor: Any) -> str:
    """Shape and dtype; the range of the finite elements of a tensor that is dense, real and not too large."""
    has_shape = not tensor.is_nested or str(tensor.layout) != "torch.strided"
    shape = f"({', '.join(map(str, tensor.shape))})" if has_shape else "nested"
    text = f"{shape} {str(tensor.dtype).removeprefix('torch.')}"
    if not has_numbers(tensor) or tensor.is_complex() or not 0 < tensor.numel() <= MAX_ELEMENTS:
        return text
    numbers = tensor.detach()
    try:
        if not numbers.is_floating_point() or numbers.itemsize < 4:  # float8 has no isfinite
            numbers = numbers.float()
    except NotImplementedError:  # of a dtype that is only storage
        return text
    if numbers.numel() == 1:
        return f"{text}, {numbers.item():.4g}"
    finite = numbers[numbers.isfinite()]
    parts = [text]
    if finite.numel():
        parts.append(" to ".join(f"{float(end):.4g}" for end in finite.aminmax()))
    if wrong := numbers.numel() - finite.numel():
        parts.append(f"{wrong} not finite")
    return ", ".join(parts)


def _shorten(text: str) -> str:
    text = visible(text)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"

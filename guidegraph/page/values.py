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
MAX_ELEMENTS = 1 << 24
"""The range of a larger tensor is not computed: the run goes on meanwhile."""


def describe_value(value: Any) -> list[str]:
    """A value in a few lines: a tensor by shape, dtype and range, others by their tensors, their text or their type."""
    if is_tensor(value):
        return [_describe_tensor(value)]
    if value is None or isinstance(value, (bool, int, float, str, Path)):
        return [_shorten(str(value))]
    parts = [(name, part) for name, part in _iterate_parts(value) if is_tensor(part)]
    lines = [
        f"{name}: {_describe_tensor(part)}" if name else _describe_tensor(part) for name, part in parts[:MAX_PARTS]
    ]
    if isinstance(value, Sequence | Mapping):
        return [f"{type(value).__name__} of {len(value)}", *lines]
    return [type(value).__name__, *lines]


def _iterate_parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(name), part) for name, part in value.items())
    elif hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, (list, tuple)):
        yield from (("", part) for part in value)
    elif is_dataclass(value):
        yield from ((item.name, getattr(value, item.name, None)) for item in fields(value))


def _describe_tensor(tensor: Any) -> str:
    shape = f"({', '.join(map(str, tensor.shape))})"
    text = f"{shape} {str(tensor.dtype).removeprefix('torch.')}"
    if not 0 < tensor.numel() <= MAX_ELEMENTS:
        return text
    plain = tensor.detach()
    if tensor.numel() == 1:
        return f"{text}, {plain.item():.4g}"
    wrong = 0 if not plain.is_floating_point() else int((~plain.isfinite()).sum())
    low, high = (float(end) for end in plain.float().nan_to_num().aminmax())
    return f"{text}, {low:.4g} to {high:.4g}" + (f", {wrong} not finite" if wrong else "")


def _shorten(text: str) -> str:
    text = visible(text)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"

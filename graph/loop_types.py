"""Types of loops: what a loop can run over, the type of an entry, and of what the loop collects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from guidegraph.graph.types import ANY, PortType, SequenceOf, Tensor, tensor_with, union


def element_of(over: PortType) -> PortType:
    """The type of one entry of what a loop runs over."""
    return without_axes(entry_of(over))


def entry_of(over: PortType) -> PortType:
    """All that is known of one entry of what a loop runs over: of a tensor's row, the axes."""
    return union([_entry_of(a) for a in over.alternatives])


def _entry_of(over: Any) -> PortType:
    if isinstance(over, SequenceOf):
        return over.element
    if Tensor in over.__mro__:
        return PortType((_row_of(over),))
    return PortType((int,)) if over is int else ANY


def _row_of(tensor: Any) -> type:
    """A row of a tensor; a vector's rows have shape (1)."""
    if tensor.axes is None:
        return Tensor
    return tensor_with(tensor.axes[1:] or tensor.axes, tensor.integer)


def without_axes(kind: PortType) -> PortType:
    """A type with `Tensor` in the place of tensors that have axes and no name."""
    plain = [Tensor if isinstance(a, type) and "derived" in vars(a) else a for a in kind.alternatives]
    return PortType(tuple(dict.fromkeys(plain)), kind.optional)


def iterable(kind: PortType) -> bool:
    """Whether a loop can run over whatever a type may be: sequences, tensors or a number of times."""
    return bool(kind.alternatives) and not kind.optional and all(map(_iterable, kind.alternatives))


def may_iterate(kind: PortType) -> bool:
    """Whether a loop can run over some values of a type."""
    return any(map(_iterable, kind.alternatives))


def _iterable(kind: Any) -> bool:
    if isinstance(kind, SequenceOf) or kind in (object, int, list, tuple):
        return True
    if Tensor in kind.__mro__:
        return kind.axes is None or len(kind.axes) > 0
    if issubclass(kind, (str, bytes, Mapping)):
        return False
    return all(any(name in vars(cls) for cls in kind.__mro__) for name in ("__len__", "__getitem__"))


def collected(kind: PortType) -> PortType:
    """All that is known of what a loop collects: tensors and structured values are stacked, all else is listed."""
    listed = PortType((SequenceOf(kind),))
    if not any(map(_stacks, kind.alternatives)):
        return listed
    if kind.optional or not all(map(_stacks, kind.alternatives)) or kind.is_any:
        return ANY
    if all(Tensor in a.__mro__ for a in kind.alternatives if isinstance(a, type)):
        return PortType(tuple(dict.fromkeys(map(_stack_of, kind.alternatives))))
    return kind if len(kind.alternatives) == 1 else ANY


def unstacked(kind: PortType) -> PortType | None:
    """All that a loop may give for what it collects: values whose shapes differ are listed, where others are stacked.

    None where there is nothing to tell.
    """
    if kind.sequence is not None or kind.is_any:
        return None
    return PortType((*kind.alternatives, SequenceOf(kind)))


def _stacks(kind: type | SequenceOf) -> bool:
    """Whether values of a type are stacked, leaf by leaf, where their shapes agree."""
    return isinstance(kind, type) and (kind is object or Tensor in kind.__mro__ or dataclasses.is_dataclass(kind))


def _stack_of(tensor: Any) -> type:
    return Tensor if tensor.axes is None else tensor_with(("R", *tensor.axes), tensor.integer)

"""Types in loops: iterable types, and the types of items and collected values."""

from __future__ import annotations

import dataclasses
from typing import Any

from guidegraph.graph.types import ANY, NEVER_ITERATED, PortType, SequenceOf, Tensor, make_tensor_type, union


def item_type(over: PortType) -> PortType:
    """The type of an item of a loop over ``over``."""
    return drop_axes(exact_item_type(over))


def exact_item_type(over: PortType) -> PortType:
    """The exact type of an item of a loop over ``over``; for rows of a tensor, with their axes."""
    return union([_exact_item_type(a) for a in over.alternatives])


def _exact_item_type(over: Any) -> PortType:
    if isinstance(over, SequenceOf):
        return over.element
    if Tensor in over.__mro__:
        tensor: Any = over  # for a type checker, Tensor is torch's
        if tensor.axes is None:
            return PortType((Tensor,))
        return PortType((make_tensor_type(tensor.axes[1:] or tensor.axes, tensor.integer),))  # rows of a vector: (1)
    return PortType((int,)) if over is int else ANY


def drop_axes(kind: PortType) -> PortType:
    """The type with unnamed tensor types replaced by `Tensor`."""
    plain = [Tensor if isinstance(a, type) and "derived" in vars(a) else a for a in kind.alternatives]
    return PortType(tuple(dict.fromkeys(plain)), kind.optional)


def can_iterate(kind: PortType) -> bool:
    """Whether a loop can run over every value of a type: sequences, tensors or a number of iterations."""
    return bool(kind.alternatives) and not kind.optional and all(map(_can_iterate, kind.alternatives))


def may_iterate(kind: PortType) -> bool:
    """Whether a loop can run over some value of a type."""
    return any(map(_can_iterate, kind.alternatives))


def _can_iterate(kind: Any) -> bool:
    if isinstance(kind, SequenceOf) or kind in (object, int, list, tuple):
        return True
    if Tensor in kind.__mro__:
        return kind.axes is None or len(kind.axes) > 0
    if issubclass(kind, NEVER_ITERATED):
        return False
    return all(any(name in vars(cls) for cls in kind.__mro__) for name in ("__len__", "__getitem__"))


def collect_type(kind: PortType) -> PortType:
    """The exact type of collected values: tensors and structured values are stacked, others listed."""
    listed = PortType((SequenceOf(kind),))
    if not any(map(_is_stackable, kind.alternatives)):
        return listed
    if kind.optional or not all(map(_is_stackable, kind.alternatives)) or kind.is_any:
        return ANY
    if all(Tensor in a.__mro__ for a in kind.alternatives if isinstance(a, type)):
        tensors: tuple[Any, ...] = kind.alternatives
        stacks = [Tensor if a.axes is None else make_tensor_type(("R", *a.axes), a.integer) for a in tensors]
        return PortType(tuple(dict.fromkeys(stacks)))
    return kind if len(kind.alternatives) == 1 else ANY


def possible_collect_type(kind: PortType) -> PortType | None:
    """Every type that collected values may have: a stack, or a list if their shapes differ.

    None if ``kind`` says so already.
    """
    if kind.sequence is not None or kind.is_any:
        return None
    return PortType((*kind.alternatives, SequenceOf(kind)))


def _is_stackable(kind: type | SequenceOf) -> bool:
    """Whether values of a type are stacked, pytree leaf by leaf, if their shapes agree."""
    return isinstance(kind, type) and (kind is object or Tensor in kind.__mro__ or dataclasses.is_dataclass(kind))

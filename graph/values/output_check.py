"""Checks that a node's outputs have the types of its annotation: by class, and for tensors by their axes.

Every output of every call is checked, so a check takes about a microsecond at most: it remembers the classes that fit,
and looks only at the first items of a list.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, TypeAlias

from guidegraph.graph.types import PortType, SequenceOf, Tensor, explain_mismatch, is_tensor_class

OutputCheck: TypeAlias = Callable[[Any], bool]
ABSENT = "__guidegraph_absent__"
"""A class attribute, true if its values stand for something missing and raise an error when they are used."""
_NUMBERS: dict[type, type] = {int: numbers.Integral, float: numbers.Real, bool: bool}
CHECKED_ITEMS = 2
"""How many items of a list are checked."""


class OutputError(TypeError):
    """A node returned a value that does not match its return annotation."""

    def __init__(self, output: str, reason: str):
        super().__init__(f"output '{output}': {reason}: the node has to return what its annotation says")


@cache
def make_output_check(kind: PortType) -> OutputCheck | None:
    """A function that returns whether a value is of a type; None if any value is."""
    if object in kind.alternatives or not kind.alternatives:
        return None
    shapes = [a for a in kind.alternatives if isinstance(a, type) and Tensor in a.__mro__]
    elements = [a.element for a in kind.alternatives if isinstance(a, SequenceOf)]
    has_rank = _has_rank(shapes) if shapes else None
    check_item = make_output_check(elements[0]) if len(elements) == 1 else None
    kinds_of_number = tuple(_NUMBERS[a] for a in kind.alternatives if isinstance(a, type) and a in _NUMBERS)
    by_class: set[type] = {type(None)} if kind.optional else set()
    tensors: set[type] = set()

    def fits(value: Any) -> bool:
        cls: Any = type(value)
        if cls in by_class:
            return True
        if cls in tensors:
            return has_rank is None or has_rank(value)
        if is_tensor_class(cls):
            if not shapes:
                rows = bool(elements) and value.ndim > 0
                return rows or (bool(kinds_of_number) and value.ndim == 0) or explain_mismatch(value, kind) is None
            tensors.add(cls)
            return has_rank is None or has_rank(value)
        if elements and cls in (list, tuple):
            return check_item is None or all(map(check_item, value[:CHECKED_ITEMS]))
        if (elements and is_iterable(value)) or is_number(value, kinds_of_number):
            by_class.add(cls)
            return True
        if explain_mismatch(value, kind) is not None and not getattr(cls, ABSENT, False):
            return False
        by_class.add(cls)
        return True

    return fits


def is_iterable(value: Any) -> bool:
    """Whether a loop or a ``Sequence`` port could take a value; torch data sets are not ``Sequence`` instances."""
    if isinstance(value, (str, bytes, Mapping)):
        return False
    return isinstance(value, Iterable) or (hasattr(value, "__len__") and hasattr(value, "__getitem__"))


def is_number(value: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a value is a number of one of these kinds, of Python or NumPy; booleans count as ``bool`` only."""
    if type(value).__name__ in ("bool", "bool_"):
        return bool in kinds
    return isinstance(value, kinds)


def _has_rank(kinds: list[Any]) -> OutputCheck | None:
    """A check that a tensor has the rank and the fixed sizes of one of these types; None if any tensor fits."""
    if any(kind.axes is None and not kind.integer for kind in kinds):
        return None
    allowed = [
        (len(kind.axes), [(i, size) for i, size in enumerate(kind.axes) if isinstance(size, int)], kind.integer)
        for kind in kinds
    ]

    def has_rank(value: Any) -> bool:
        shape = value.shape
        for rank, fixed, integer in allowed:
            if len(shape) == rank and not (integer and value.is_floating_point()):
                for i, size in fixed:
                    # While a graph is traced, sizes are symbols, and a comparison would fix them.
                    if shape[i] != size and type(shape[i]) is int:
                        break
                else:
                    return True
        return False

    return has_rank


def output_mismatch(value: Any, kind: PortType) -> str:
    """The reason why an output does not fit its type."""
    return explain_mismatch(value, kind) or f"expected {kind}, found {type(value).__name__}"

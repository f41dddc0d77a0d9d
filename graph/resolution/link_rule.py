"""The link rule: which types may be linked, and which links need a check at run time.

A link is valid when one side's type is an ancestor of the other's; an ``int`` also feeds a ``float``; ``Any`` connects
to everything. Every alternative of a source (``int | str``, ``Image | None``) must satisfy the rule. Unnamed tensor
types with axes, such as the rows of a named type, may be linked wherever the axes agree. A valid link that does not
guarantee the target type (``narrows``) is checked at run time.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeAlias

from guidegraph.graph.types import PortType, SequenceOf, Tensor, union

_NO_ANCESTORS: tuple[Any, ...] = (typing.Generic, typing.Protocol)


def _axes_agree(a: Any, b: Any) -> bool:
    """Whether one tensor can have the axes of both types."""
    if Tensor not in a.__mro__ or Tensor not in b.__mro__:
        return False
    if a.axes is None or b.axes is None:
        return True
    same = len(a.axes) == len(b.axes)
    return same and all(
        x == y for x, y in zip(a.axes, b.axes, strict=True) if isinstance(x, int) and isinstance(y, int)
    )


def _axes_imply(a: Any, b: Any) -> bool:
    """Whether every tensor with the axes of ``a`` also has the axes of ``b``."""
    if not _axes_agree(a, b) or a.axes is None or b.axes is None or (b.integer and not a.integer):
        return False
    return all(x == y for x, y in zip(a.axes, b.axes, strict=True) if isinstance(y, int))


Quantifier: TypeAlias = Callable[[Iterable[bool]], bool]


def _are_related(a: type | SequenceOf, b: type | SequenceOf, quantify: Quantifier) -> bool:
    if a is object or b is object:
        return True
    if isinstance(a, SequenceOf) or isinstance(b, SequenceOf):
        if isinstance(a, SequenceOf) and isinstance(b, SequenceOf):
            return _is_linkable(a.element, b.element, quantify)
        plain = b if isinstance(a, SequenceOf) else a
        return plain in (list, tuple)
    if a is bool or b is bool:
        return a is b
    if a is int and b is float:
        return True
    if "derived" in vars(a) or "derived" in vars(b):
        return _axes_agree(a, b)
    return a in b.__mro__ or b in a.__mro__


def _is_linkable(source: PortType, target: PortType, quantify: Quantifier) -> bool:
    related = [any(_are_related(a, b, quantify) for b in target.alternatives) for a in source.alternatives]
    if source.optional and not source.is_any:
        related.append(target.optional or target.is_any)
    return quantify(related)


@cache
def can_link(source: PortType, target: PortType) -> bool:
    """The link rule: each alternative of the source, None included, is related to one of the target's."""
    return _is_linkable(source, target, all)


@cache
def may_fit(source: PortType, target: PortType) -> bool:
    """Whether some values of the source may fit the target: the rule for values that are checked before a run."""
    return _is_linkable(source, target, any)


@cache
def may_pass(source: PortType, target: PortType) -> bool:
    """Whether values of every alternative of the source may pass the target's check at run time.

    That check compares the axes of tensors, not the names of their types.
    """

    def passes(a: Any, b: Any) -> bool:
        plain = isinstance(a, SequenceOf) or isinstance(b, SequenceOf)
        return _are_related(a, b, any) or (not plain and _axes_agree(a, b))

    passing = [any(passes(a, b) for b in target.alternatives) for a in source.alternatives]
    return all(passing) and (not source.optional or source.is_any or target.optional or target.is_any)


@cache
def narrows(source: PortType, target: PortType) -> bool:
    """Whether a valid link needs a check at run time: the source type does not guarantee the target type."""

    def guarantees(a: type | SequenceOf, b: type | SequenceOf) -> bool:
        if b is object:
            return True
        if isinstance(a, SequenceOf) or isinstance(b, SequenceOf):
            return isinstance(a, SequenceOf) and isinstance(b, SequenceOf) and not narrows(a.element, b.element)
        return b in a.__mro__ or (a is int and b is float) or ("derived" in vars(a) and _axes_imply(a, b))

    if source.optional and not (target.optional or target.is_any):
        return True
    return not all(any(guarantees(a, b) for b in target.alternatives) for a in source.alternatives)


@cache
def join(a: PortType, b: PortType) -> PortType:
    """The nearest common supertype: the type of a loop's carry."""
    if a == b:
        return a
    if len(a.alternatives) == 1 and len(b.alternatives) == 1:
        x, y = a.alternatives[0], b.alternatives[0]
        if isinstance(x, type) and isinstance(y, type):
            if {x, y} == {int, float}:
                return PortType((float,), a.optional or b.optional)
            common = next(c for c in x.__mro__ if c in y.__mro__ and c not in _NO_ANCESTORS)
            return PortType((common,), a.optional or b.optional)
    return union([a, b])


def have_common_type(a: PortType, b: PortType) -> bool:
    """Whether a carry can hold values of both types: a link is valid, or the classes share an ancestor."""
    return (
        can_link(a, b)
        or can_link(b, a)
        or any(
            isinstance(x, type)
            and isinstance(y, type)
            and (bool not in (x, y) or x is y)
            and any(c in y.__mro__ and c is not object and c not in _NO_ANCESTORS for c in x.__mro__)
            for x in a.alternatives
            for y in b.alternatives
        )
    )

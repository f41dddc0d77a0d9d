"""The bounds of parameters: the ranges of the traced settings and the loops that read them."""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from guidegraph.graph.ir import Loop, Op, walk
from guidegraph.graph.sources import Param
from guidegraph_runtime.bundle.bounds import intersect_bounds
from guidegraph_runtime.declare.settings import Range

_ITERATIONS = Range(low=0)


def find_bounds(ops: Mapping[str, Op], traced: Collection[str], numbers: Collection[str]) -> dict[str, Range]:
    """The bounds of parameters that have some, by name.

    traced: the keys of the traced operations; those on the host check their settings themselves. numbers: the
    parameters that are numbers, and not lists, so that they may count a loop's iterations.
    """
    ranges: dict[str, list[Range]] = defaultdict(list)
    for op in walk(ops, previews=False):
        if isinstance(op, Loop):
            if isinstance(op.over, Param) and op.over.name in numbers:
                ranges[op.over.name].append(_ITERATIONS)
        elif op.key in traced:
            for name, port in op.parameters():
                ranges[name].append(range_of(port.annotation))
    bounds = {name: intersect_bounds(entries) for name, entries in ranges.items()}
    return {name: entry for name, entry in bounds.items() if entry != Range()}


def range_of(annotation: Any) -> Range:
    """The range that a port has for numbers; without bounds if it takes different ones, or anything."""
    ranges = {*_walk_ranges(annotation, ())}
    return ranges.pop() if len(ranges) == 1 else Range()


def _walk_ranges(annotation: Any, marks: tuple[Any, ...]) -> Iterator[Range]:
    """The range of each number in an annotation, also of those in lists."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _walk_ranges(arguments[0], (*arguments[1:], *marks))
    elif origin in (Union, types.UnionType):
        for member in arguments:
            yield from _walk_ranges(member, marks)
    elif origin in (list, tuple, Sequence):
        for element in arguments:
            yield from _walk_ranges(element, ())
    elif annotation in (int, float):
        yield intersect_bounds(map(_read_mark, marks))
    elif annotation is Any:
        yield Range()


def _read_mark(mark: Any) -> Range:
    if isinstance(mark, Range):
        return mark
    kinds = ((Ge, "ge", "low"), (Gt, "gt", "above"), (Le, "le", "high"), (Lt, "lt", "below"))
    return Range(**{bound: getattr(mark, name) for kind, name, bound in kinds if isinstance(mark, kind)})

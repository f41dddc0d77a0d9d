"""The bounds of parameters and of parts' inputs: the ranges of the operations and loops that read them."""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

from guidegraph.graph.export.partition.subgraph import ExampleValue
from guidegraph.graph.ir import Call, Op, find_loops, list_calls, walk, walk_calls
from guidegraph.graph.planning.passes import call_trait, read_known_arguments
from guidegraph.graph.sources import Many, Output, Param, Source, list_parameters
from guidegraph_runtime.bundle.manifest_types import intersect_bounds, plain_bounds
from guidegraph_runtime.declare.operation import setting_copied_by
from guidegraph_runtime.declare.settings import Range


def find_bounds(
    ops: Mapping[str, Op],
    traced: Collection[str],
    numbers: Collection[str],
    constants: Mapping[Source, Any],
    least_iterations: int = 0,
) -> dict[str, Range]:
    """The bounds of parameters that have some, by name.

    traced: the keys of the traced operations; those on the host check their settings themselves. numbers: the
    parameters that are numbers, and not lists, so that they may count a loop's iterations. constants: the values that
    are the same in every run. least_iterations: of a loop.
    """
    calls = walk_calls(ops, previews=False)
    copied_settings = {
        Output(call.key, name): call.argument(setting)
        for call in calls
        if (setting := setting_copied_by(call.spec.id))
        for name in call.outputs
    }
    ranges: dict[str, list[Range]] = defaultdict(list)
    for call in calls:
        for port_name, entry in find_port_ranges(call, constants).items():
            source = call.argument(port_name)
            parameter = copied_settings.get(source, source) if isinstance(source, Output) else source
            if isinstance(parameter, Param):
                ranges[parameter.name].append(entry)
    for call in calls:
        for name, port in call.parameters() if call.key in traced else ():
            ranges[name].append(range_of(port.annotation))
    for name in list_parameters(loop.over for loop in find_loops(walk(ops, previews=False)).values()):
        if name in numbers:
            ranges[name].append(Range(low=least_iterations))
    bounds = {name: intersect_bounds(entries) for name, entries in ranges.items()}
    return {name: entry for name, entry in bounds.items() if entry != Range()}


def find_port_ranges(call: Call, constants: Mapping[Source, Any]) -> Mapping[str, Range]:
    """The ranges of a call's settings and ports by name, according to its ``ranges`` for the constant values."""
    if call.spec.ranges is None:
        return {}
    arguments = read_known_arguments(call, call.spec.ranges_arguments, constants)
    ranges: Mapping[str, Range] = {} if arguments is None else call_trait(call, "ranges", call.spec.ranges, arguments)
    return ranges


def find_input_ranges(
    ops: Iterable[Op], examples: Iterable[ExampleValue], constants: Mapping[Source, Any]
) -> dict[str, dict[str, float]]:
    """The bounds of the inputs of a part that have some, by name. ops: of the part. examples: of its inputs."""
    names = {example.source: example.name for example in examples}
    ranges: dict[str, list[Range]] = defaultdict(list)
    for call in list_calls(ops):
        for port, entry in find_port_ranges(call, constants).items():
            source = call.argument(port)
            if not isinstance(source, Many) and source in names:
                ranges[names[source]].append(entry)
    return {name: plain_bounds(intersect_bounds(entries)) for name, entries in ranges.items()}


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

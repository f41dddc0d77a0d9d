"""The origins of a value: the sources behind the choices, the loop items and the carries that pass it on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from guidegraph.graph.ir import Call, Choice, Loop, Op, walk
from guidegraph.graph.port import Port
from guidegraph.graph.sources import Carry, Item, Many, Output, Param, Source
from guidegraph_runtime.declare.choice_words import WHEN


class Origin(NamedTuple):
    """A source whose value a link may give. depth: how many loops take an item of it; 0 for the value itself."""

    source: Source
    depth: int = 0


Origins: TypeAlias = Mapping[Source, tuple[Origin, ...]]
"""The origins of each source that passes on values of others."""


def trace_origins(ops: Mapping[str, Op], *, items: bool = False, starts: bool = False) -> Origins:
    """The origins of each choice: its branches and, for a branch that is a choice, the origins of that choice.

    items: also of whole items of loops. starts: also of carries, in the first iteration alone.
    """
    origins: dict[Source, tuple[Origin, ...]] = {}
    for op in walk(ops):  # in topological order, so what is behind a source is known before the source
        if isinstance(op, Choice):
            origins[Output(op.key, "out")] = _merge(list_origins(op.branch(name), origins) for name in op.inputs)
        elif isinstance(op, Loop):
            if items:
                behind = list_origins(op.over, origins)
                origins[Item(op.key)] = tuple(Origin(source, depth + 1) for source, depth in behind)
            for name, start in op.carry.items() if starts else ():
                origins[Carry(op.key, name)] = list_origins(start, origins)
    return origins


def list_origins(source: Source, origins: Origins) -> tuple[Origin, ...]:
    """The origins of a source; the source itself if it passes on no other."""
    return origins.get(source) or (Origin(source),)


def list_origins_of_link(op: Op, name: str, source: Source, origins: Origins) -> tuple[Origin, ...]:
    """The origins of a source that an operation reads under a name. The branches of a choice are not followed."""
    return (Origin(source),) if isinstance(op, Choice) and name != WHEN else list_origins(source, origins)


def list_parameter_ports(call: Call, origins: Origins) -> Iterator[tuple[str, Port]]:
    """Each parameter that a call reads, also behind choices, with its port; for one in a list, the port of one
    element."""
    for name, source in call.links():
        if (port := call.spec.port(name)) is None:
            continue
        sequence = port.type.sequence if isinstance(call.argument(name), Many) else None
        fed = Port(name, None, sequence.element) if sequence else port
        for origin, _ in list_origins_of_link(call, name, source, origins):
            if isinstance(origin, Param):
                yield origin.name, fed


def _merge(groups: Iterable[tuple[Origin, ...]]) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(origin for group in groups for origin in group))

"""The origins of a value: the sources behind the choices, the loop items and the carries that pass it on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from guidegraph.graph.ir import Call, Choice, Loop, Op, walk
from guidegraph.graph.port import Port
from guidegraph.graph.sources import Carry, Item, Output, Param, Source
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
        match op:
            case Choice():
                behind = [origin for source in op.branches().values() for origin in list_origins(source, origins)]
                origins[Output(op.key, "out")] = tuple(dict.fromkeys(behind))
            case Loop():
                if items:
                    over = list_origins(op.over, origins)
                    origins[Item(op.key)] = tuple(Origin(source, depth + 1) for source, depth in over)
                for name, start in op.carry.items() if starts else ():
                    origins[Carry(op.key, name)] = list_origins(start, origins)
    return origins


def list_origins(source: Source, origins: Origins) -> tuple[Origin, ...]:
    """The origins of a source; the source itself if it passes on no other."""
    return origins.get(source) or (Origin(source),)


def list_origins_of_link(op: Op, name: str, source: Source, origins: Origins) -> tuple[Origin, ...]:
    """The origins of a source that an operation reads under a name. The branches of a choice are not followed."""
    return (Origin(source),) if op.has_branches and name != WHEN else list_origins(source, origins)


def list_parameter_ports(call: Call, origins: Origins) -> list[tuple[str, Port]]:
    """Each parameter that a call reads, also behind choices, with its port; for one in a list, the port of one
    element."""
    if not origins:
        return call.parameters()
    ports: list[tuple[str, Port]] = []
    for source, port in call.linked_ports():
        for origin in list_origins_of_link(call, port.name, source, origins):
            match origin.source:
                case Param(name):
                    ports.append((name, port))
    return ports

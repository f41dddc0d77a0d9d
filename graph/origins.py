"""The origins of a value: the sources behind the choices, the loop items and the carries that pass it on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from guidegraph.graph.ir import Choice, Loop, Op, walk
from guidegraph.graph.sources import Carry, Item, Output, Source


class Origin(NamedTuple):
    """A source whose value a link may give. depth: how many loops take an item of it; 0 for the value itself."""

    source: Source
    depth: int = 0


Origins: TypeAlias = Mapping[Source, tuple[Origin, ...]]
"""The origins of each source that passes on values of others."""


def trace_origins(ops: Mapping[str, Op], *, items: bool = False, starts: bool = False) -> Origins:
    """The origins of each choice: its branches, and those of the choices that are branches of it.

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


def _merge(groups: Iterable[tuple[Origin, ...]]) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(origin for group in groups for origin in group))

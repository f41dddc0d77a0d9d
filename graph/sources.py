"""The sources that ports and settings of a validated graph read: outputs, parameters, carries, items and constants.

Sources are keys of the values of a run. They are named tuples, which hash without a call of ours; ``kind`` keeps two
that hold the same names apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from typing import Literal as Is


class Output(NamedTuple):
    """An output of another operation; ``op`` is its key."""

    op: str
    name: str
    kind: Is["output"] = "output"


class Param(NamedTuple):
    """The value of a workflow parameter, known once the run is bound."""

    name: str
    kind: Is["param"] = "param"


class Carry(NamedTuple):
    """The current value of a loop's carry, inside its body; ``loop`` is the loop's key."""

    loop: str
    name: str
    kind: Is["carry"] = "carry"


class Item(NamedTuple):
    """The loop's current item, or one field of it."""

    loop: str
    field: str | None = None
    kind: Is["item"] = "item"


class Index(NamedTuple):
    """The iteration number, from 0."""

    loop: str
    kind: Is["index"] = "index"


@dataclass(frozen=True, eq=False, slots=True)
class Literal:
    """A validated constant."""

    value: Any


Source = Output | Param | Carry | Item | Index | Literal


@dataclass(frozen=True, slots=True)
class Many:
    """A list of links: the sources of a port that takes a sequence, in order."""

    sources: tuple[Source, ...]
    kind: Is["many"] = "many"


Sources = Source | Many


def format_link(source: Output | Param) -> str:
    """A link as written at the top level of a workflow: NODE, NODE.OUTPUT or params.NAME."""
    match source:
        case Param(name):
            return f"params.{name}"
        case Output(op, "out"):
            return op
    return f"{source.op}.{source.name}"


def list_sources(sources: Sources) -> tuple[Source, ...]:
    """All sources of a port: every link of a list, or the only source."""
    return sources.sources if isinstance(sources, Many) else (sources,)


def list_parameters(sources: Iterable[Sources]) -> list[str]:
    """The names of the parameters among sources."""
    return [source.name for source in sources if isinstance(source, Param)]


def find_value(source: Sources | None, values: Mapping[str, Any], unknown: Any = None) -> Any:
    """The value of a literal, or of a parameter that has one; ``unknown`` for anything else."""
    match source:
        case Literal(value):
            return value
        case Param(name):
            return values.get(name, unknown)
    return unknown


def map_sources(change: Callable[[Source], Source], sources: Sources) -> Sources:
    """The sources of a port with each replaced by ``change(source)``."""
    return Many(tuple(map(change, sources.sources))) if isinstance(sources, Many) else change(sources)


def map_links(links: Mapping[str, Source], change: Callable[[Source], Source]) -> dict[str, Source]:
    """Links by name, with each source replaced by ``change(source)``."""
    return {name: change(source) for name, source in links.items()}

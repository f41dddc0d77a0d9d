"""Inputs of a traced part that count for nothing while a flag of another value is as it is: ``needs``, for a bundle.

A bundle has no Python to ask ``needs`` at run time. What it says for all flags of the values that it names is found at
export, and kept where one flag alone decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guidegraph.graph.export.leaves import statics_of
from guidegraph.graph.export.parts import Given
from guidegraph.graph.export.statics import with_field
from guidegraph.graph.ir import Call, Op, Source
from guidegraph.graph.passes import argument_source, unneeded

MOST_FLAGS = 10


@dataclass(frozen=True)
class Flag:
    """A field of a value that is true or false, and what the run calls it."""

    source: Source
    path: str
    name: str


def unread_inputs(ops: Sequence[Op], given: Sequence[Given], held: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """For each input that one flag can make unread: ``{"field": name of the flag, "is": its value then}``.

    held: what the run calls the plain fields that it has, by their names in the part.
    """
    calls = [op for op in ops if isinstance(op, Call)]
    readers = [(source, call, port) for call in calls for port, source in _single_inputs(call)]
    counts = [source for call in calls for source in call.sources()]
    found: dict[str, dict[str, Any]] = {}
    names = {one.source: one.name for one in given}
    for source, call, port in readers:
        if source in names and counts.count(source) == 1 and call.spec.needs is not None:
            flag = _deciding(call, port, given, held)
            if flag is not None:
                found[names[source]] = {"field": flag[0].name, "is": flag[1]}
    return found


def _single_inputs(call: Call) -> Iterator[tuple[str, Source]]:
    yield from ((port, source) for port, source in call.inputs.items() if not isinstance(source, tuple))


def _deciding(call: Call, port: str, given: Sequence[Given], held: Mapping[str, str]) -> tuple[Flag, bool] | None:
    """The flag, and its value, with which the call never needs the port, whatever the other flags are."""
    sources = [argument_source(call, name) for name in call.spec.needs_arguments]
    asked = [one for one in given if one.source in sources]
    flags = [
        Flag(one.source, path, held[name])
        for one in asked
        for path, value in statics_of(one.value).items()
        if isinstance(value, bool) and (name := f"{one.name}.{path}") in held
    ]
    if len(flags) > MOST_FLAGS:
        return None
    spare = set(itertools.product(flags, (False, True)))
    for chosen in itertools.product((False, True), repeat=len(flags)):
        values: dict[Source, Any] = {one.source: one.value for one in asked}
        for flag, value in zip(flags, chosen, strict=True):
            values[flag.source] = with_field(values[flag.source], flag.path, value)
        if port not in unneeded(call, values):
            spare -= set(zip(flags, chosen, strict=True))
    return min(spare, key=lambda one: one[0].name, default=None)

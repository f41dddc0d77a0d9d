"""Inputs of a traced part that are unread for some value of a flag: the trait ``needs``, for bundles.

A bundle cannot call ``needs`` at run time. So it is called at export for all combinations of the flags in its
arguments, and the result is kept if a single flag decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guidegraph.graph.export.partition.guards import replace_field
from guidegraph.graph.export.partition.leaves import plain_fields
from guidegraph.graph.export.partition.subgraph import ExampleValue
from guidegraph.graph.ir import Call, Op
from guidegraph.graph.planning.passes import find_unneeded_ports
from guidegraph.graph.sources import Many, Source

MOST_FLAGS = 10


@dataclass(frozen=True)
class Flag:
    """A boolean field of a value, and its name in the run."""

    source: Source
    path: str
    name: str


def find_unread_inputs(
    ops: Sequence[Op], examples: Sequence[ExampleValue], run_names: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """For each input that one flag can make unread, ``{"field": name of the flag, "is": its value then}``.

    run_names: the names in the run of the plain fields that it has, by their names in the part.
    """
    calls = [op for op in ops if isinstance(op, Call)]
    counts = [source for call in calls for source in call.sources()]
    unread: dict[str, dict[str, Any]] = {}
    names = {example.source: example.name for example in examples}
    for call in (call for call in calls if call.spec.needs is not None):
        for port, source in call.inputs.items():
            if isinstance(source, Many) or source not in names or counts.count(source) != 1:
                continue
            flag = _find_deciding_flag(call, port, examples, run_names)
            if flag is not None:
                unread[names[source]] = {"field": flag[0].name, "is": flag[1]}
    return unread


def _find_deciding_flag(
    call: Call, port: str, examples: Sequence[ExampleValue], run_names: Mapping[str, str]
) -> tuple[Flag, bool] | None:
    """A flag and its value with which the call never needs the port, whatever the other flags are."""
    sources = [call.argument(name) for name in call.spec.needs_arguments]
    read_examples = [example for example in examples if example.source in sources]
    flags = [
        Flag(example.source, path, run_names[name])
        for example in read_examples
        for path, value in plain_fields(example.value).items()
        if isinstance(value, bool) and (name := f"{example.name}.{path}") in run_names
    ]
    if len(flags) > MOST_FLAGS:
        return None
    candidates = set(itertools.product(flags, (False, True)))
    for flag_values in itertools.product((False, True), repeat=len(flags)):
        values: dict[Source, Any] = {example.source: example.value for example in read_examples}
        for flag, value in zip(flags, flag_values, strict=True):
            values[flag.source] = replace_field(values[flag.source], flag.path, value)
        if port not in find_unneeded_ports(call, values):
            candidates -= set(zip(flags, flag_values, strict=True))
    return min(candidates, key=lambda example: example[0].name, default=None)

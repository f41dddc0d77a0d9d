"""What a step need not compute: the traits ``needs`` and ``identity``, for bundles.

A bundle cannot call them at run time. So they are called at export: for all combinations of the flags in their
arguments, to find inputs that one flag makes unread, and for the numbers of a step that make a network's call unneeded,
such as a guidance scale of 1. For these numbers the part has shorter forms, of which a run takes the one that fits.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guidegraph.graph.export.partition.guards import replace_field
from guidegraph.graph.export.partition.leaves import plain_fields
from guidegraph.graph.export.partition.subgraph import ExampleValue, is_number
from guidegraph.graph.ir import Call, Op, list_calls
from guidegraph.graph.planning.passes import (
    bind_sources,
    find_unneeded_ports,
    follow_aliases,
    prune,
    rewrite_sources,
    skip,
)
from guidegraph.graph.sources import Literal, Many, Output, Source

SKIPPING = (1.0, 0.0)
"""The numbers that are tried: a scale of 1, a share of 0."""
MOST_NUMBERS = 2
"""Numbers of a part by which it has shorter forms: each doubles the graphs."""


@dataclass(frozen=True)
class ShortForm:
    """A part without the calls that some numbers make unneeded.

    when: the numbers, by their names in the run.
    """

    when: Mapping[str, float]
    ops: tuple[Op, ...]


def find_short_forms(
    ops: Sequence[Op], inputs: Sequence[ExampleValue], results: Sequence[Source], computed: Collection[str]
) -> list[ShortForm]:
    """The shorter forms of a part, those with the most numbers first.

    inputs, results: of the part. computed: the keys of the operations that compute its numbers for each step. A number
    counts if a value of it makes a call of a network unneeded.
    """
    skipping: dict[ExampleValue, float] = {}
    for number in inputs:
        if not (isinstance(number.source, Output) and number.source.op in computed and is_number(number.value)):
            continue
        for value in SKIPPING:
            if _shorten(ops, {number: value}, results) is not None:
                skipping[number] = value
                break
    chosen = [*skipping.items()][:MOST_NUMBERS]
    subsets = (subset for size in range(len(chosen), 0, -1) for subset in itertools.combinations(chosen, size))
    forms = (_shorten(ops, dict(subset), results) for subset in subsets)
    return [form for form in forms if form is not None]


def _shorten(ops: Sequence[Op], numbers: Mapping[ExampleValue, float], results: Sequence[Source]) -> ShortForm | None:
    """The form for some numbers; None if no network's call is unneeded, or a result is then another operation's."""
    literals: dict[Source, Source] = {number.source: Literal(value) for number, value in numbers.items()}
    short, aliases = skip({op.key: bind_sources(op, literals) for op in ops}, {})
    if not aliases.keys().isdisjoint(results):
        return None
    follow = follow_aliases(aliases)
    form = [*prune({key: rewrite_sources(op, follow) for key, op in short.items()}, results, effects=False).values()]
    kept = {call.key for call in list_calls(form)}
    if all(call.key in kept for call in list_calls(ops) if call.spec.batchable):
        return None
    return ShortForm({number.name: value for number, value in numbers.items()}, tuple(form))


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
    calls = list_calls(ops)
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

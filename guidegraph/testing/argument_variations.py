"""Variations of a node's arguments: choices of settings, optional ports, one sample."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from guidegraph.graph.port import Port
from guidegraph.graph.types import SequenceOf
from guidegraph.testing.arguments import Arguments, call_node
from guidegraph.testing.batches import batch_size, take_sample
from guidegraph.testing.case import NodeCase
from guidegraph.testing.examples import make_example
from guidegraph.testing.outcome import NoExample, Nonconforming

NUMBERS: tuple[Any, ...] = (0, 1, 2, 0.0, 1.0, 0.5)


def vary_settings(case: NodeCase, arguments: Arguments, numbers: bool = False) -> Iterator[tuple[str, Arguments]]:
    """The arguments with one setting changed: each choice, True and False, and some numbers if ``numbers``.

    Each comes with a description of the change for messages.
    """
    for name, port in case.spec.settings.items():
        if name in case.settings or name in case.constant:
            continue
        for value in _values(port, numbers):
            if value != arguments.settings[name] or type(value) is not type(arguments.settings[name]):
                yield f"{name} = {value!r}", Arguments(arguments.ports, {**arguments.settings, name: value})


def _values(port: Port, numbers: bool) -> Iterator[Any]:
    kinds = [kind for kind in port.type.alternatives if not isinstance(kind, SequenceOf)]
    values = [*literal_choices(port.annotation), *((False, True) if bool in kinds else ())]
    if numbers:
        values += [number for number in NUMBERS if type(number) in kinds]
    for value in values:
        with suppress(ValueError):
            yield port.check(value)


def literal_choices(annotation: Any) -> Iterator[Any]:
    """The values of the ``Literal`` in an annotation, if any."""
    if typing.get_origin(annotation) is typing.Literal:
        yield from typing.get_args(annotation)
        return
    for inner in typing.get_args(annotation):
        yield from literal_choices(inner) if typing.get_origin(inner) is not None else ()


def wire_optional_ports(case: NodeCase, arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The arguments with one more port: each optional port that has an example."""
    for i, (name, port) in enumerate(case.spec.inputs.items()):
        if name not in arguments.ports:
            with suppress(NoExample):
                yield name, arguments.with_port(name, make_example(case.id, port, i))


def with_one_sample(case: NodeCase, arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The arguments reduced to a batch of 1, if they have a larger batch."""
    batch = batch_size(case, arguments)
    if batch is not None and batch > 1:
        yield "one sample", take_sample(case, arguments, batch, 0)


def vary_arguments(case: NodeCase, arguments: Arguments) -> Iterator[tuple[str, Arguments]]:
    """All of the variations above, one at a time."""
    yield from with_one_sample(case, arguments)
    yield from vary_settings(case, arguments)
    yield from ((f"port '{name}' wired", wired) for name, wired in wire_optional_ports(case, arguments))


def call_or_none(case: NodeCase, arguments: Arguments) -> dict[str, Any] | None:
    """Call the node. Returns None if it fails, because these values do not go together."""
    try:
        return call_node(case, arguments)
    except Nonconforming:
        return None

"""Other values that a node can be called with: choices of settings, ports that are optional, one sample."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from guidegraph.graph.node import Port
from guidegraph.graph.types import SequenceOf
from guidegraph.testing.batches import batch_of, sample_of
from guidegraph.testing.case import NodeCase
from guidegraph.testing.examples import example_for
from guidegraph.testing.outcome import NoExample, Nonconforming
from guidegraph.testing.values import Arguments, call

NUMBERS: tuple[Any, ...] = (0, 1, 2, 0.0, 1.0, 0.5)


def other_settings(case: NodeCase, given: Arguments, numbers: bool = False) -> Iterator[tuple[str, Arguments]]:
    """The arguments with one setting changed: each choice, True and False, and some numbers where asked.

    With each, how the change is called in a message.
    """
    for name, port in case.spec.settings.items():
        if name in case.settings or name in case.constant:
            continue
        for value in _values(port, numbers):
            if value != given.settings[name] or type(value) is not type(given.settings[name]):
                yield f"{name} = {value!r}", Arguments(given.ports, {**given.settings, name: value})


def _values(port: Port, numbers: bool) -> Iterator[Any]:
    kinds = [kind for kind in port.type.alternatives if not isinstance(kind, SequenceOf)]
    values = [*choices(port.annotation), *((False, True) if bool in kinds else ())]
    if numbers:
        values += [number for number in NUMBERS if type(number) in kinds]
    for value in values:
        with suppress(ValueError):
            yield port.check(value)


def choices(annotation: Any) -> Iterator[Any]:
    """The values of the ``Literal`` in an annotation, if there is one."""
    if typing.get_origin(annotation) is typing.Literal:
        yield from typing.get_args(annotation)
        return
    for inner in typing.get_args(annotation):
        yield from choices(inner) if typing.get_origin(inner) is not None else ()


def with_optional_ports(case: NodeCase, given: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The arguments with one more port: each optional port that has an example."""
    for i, (name, port) in enumerate(case.spec.inputs.items()):
        if name not in given.ports:
            with suppress(NoExample):
                yield name, given.with_port(name, example_for(case.id, port, i))


def one_sample(case: NodeCase, given: Arguments) -> Iterator[tuple[str, Arguments]]:
    """The arguments with a batch of 1, where they have a batch."""
    batch = batch_of(case, given)
    if batch is not None and batch > 1:
        yield "one sample", sample_of(case, given, batch, 0)


def variations(case: NodeCase, given: Arguments) -> Iterator[tuple[str, Arguments]]:
    """Everything above, each change alone."""
    yield from one_sample(case, given)
    yield from other_settings(case, given)
    yield from ((f"port '{name}' wired", wired) for name, wired in with_optional_ports(case, given))


def outputs_or_none(case: NodeCase, given: Arguments) -> dict[str, Any] | None:
    """The outputs; None where these values do not go together, so that the node fails."""
    try:
        return call(case, given)
    except Nonconforming:
        return None

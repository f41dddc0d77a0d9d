"""A ``Sequence`` port takes lists, tuples, other sequences, and sequences of one element."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Any

from guidegraph.testing.argument_variations import call_or_none, wire_optional_ports
from guidegraph.testing.arguments import Arguments, call_node, make_arguments
from guidegraph.testing.case import NodeCase
from guidegraph.testing.comparison import difference, rounding_tolerance
from guidegraph.testing.outcome import Nonconforming

REMEDY = (
    "use a sequence by its length and its elements alone: list(values) before a method of lists, [*values, x] for "
    "values + [x]"
)


class CustomSequence(Sequence[Any]):
    """A sequence that is neither a list nor a tuple, like a data set."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]


def check_sequences(case: NodeCase) -> None:
    """Lists, tuples and other sequences give equal results; one element is accepted, or raises ``ValueError``."""
    for name, args in _sequences(case):
        values = list(args.ports[name])
        expected = call_node(case, args.with_port(name, list(values)))
        others = {"a list": values, "a tuple": tuple(values), "a sequence of another class": CustomSequence(values)}
        for description, other in others.items():
            same = f"{description} at port '{name}' as good as a list"
            try:
                outputs = call_node(case, args.with_port(name, other))
            except Nonconforming as error:
                raise case.error(same, error.found, REMEDY) from error
            if (deviation := difference(outputs, expected)) > rounding_tolerance(expected):
                raise case.error(same, f"a result that differs by {deviation:.1e}", REMEDY)
        try:
            call_node(case, args.with_port(name, values[:1]))
        except Nonconforming as error:
            if isinstance(error.__cause__, ValueError):  # raised by the node: its ports are incompatible
                continue
            raise case.error(
                f"a result for one entry at port '{name}', or a ValueError that says why not",
                error.found,
                "do not assume that there are two elements",
            ) from error


def _has_length(annotation: Any) -> bool:
    """Whether an annotation is, or holds, a tuple of a fixed length."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return Ellipsis not in inner
    return any(map(_has_length, inner))


def _sequences(case: NodeCase) -> Iterator[tuple[str, Arguments]]:
    """Each port that takes a sequence, with arguments in which it is wired."""
    args = make_arguments(case)
    ports = {
        name
        for name, port in case.spec.inputs.items()
        if port.type.sequence is not None and not _has_length(port.annotation)
    }
    yield from ((name, args) for name in ports if isinstance(args.ports.get(name), (list, tuple)))
    for name, wired in wire_optional_ports(case, args):
        if name in ports and isinstance(wired.ports[name], (list, tuple)) and call_or_none(case, wired):
            yield name, wired

"""A ``Sequence`` port takes what a workflow gives it: a list, a tuple, a sequence of another class, or one entry."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Sequence
from typing import Any

from guidegraph.testing.alternatives import outputs_or_none, with_optional_ports
from guidegraph.testing.case import NodeCase
from guidegraph.testing.outcome import Nonconforming
from guidegraph.testing.values import Arguments, arguments, call, difference, rounding

REMEDY = (
    "use a sequence by its length and its entries alone: list(values) before a method of lists, [*values, x] for "
    "values + [x]"
)


class Entries(Sequence[Any]):
    """A sequence that is no list and no tuple, as data sets are."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]


def check_sequences(case: NodeCase) -> None:
    """Lists, tuples and other sequences give the same; a sequence of one entry is taken, or refused by a message."""
    for name, given in _sequences(case):
        _check(case, name, given)


def _has_length(annotation: Any) -> bool:
    """Whether an annotation is, or holds, a tuple of a fixed length."""
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return Ellipsis not in inner
    return any(map(_has_length, inner))


def _sequences(case: NodeCase) -> Iterator[tuple[str, Arguments]]:
    """Each port that takes a sequence, with arguments in which it is wired."""
    given = arguments(case)
    ports = {
        name
        for name, port in case.spec.inputs.items()
        if port.type.sequence is not None and not _has_length(port.annotation)
    }
    yield from ((name, given) for name in ports if isinstance(given.ports.get(name), (list, tuple)))
    for name, wired in with_optional_ports(case, given):
        if name in ports and isinstance(wired.ports[name], (list, tuple)) and outputs_or_none(case, wired):
            yield name, wired


def _check(case: NodeCase, name: str, given: Arguments) -> None:
    values = list(given.ports[name])
    expected = call(case, given.with_port(name, list(values)))
    for what, other in (
        ("a list", values),
        ("a tuple", tuple(values)),
        ("a sequence of another class", Entries(values)),
    ):
        found = _result(case, given.with_port(name, other), f"{what} at port '{name}' as good as a list")
        if (apart := difference(found, expected)) > rounding(expected):
            raise case.error(
                f"{what} at port '{name}' as good as a list", f"a result that differs by {apart:.1e}", REMEDY
            )
    _one_entry(case, given, name, values[:1])


def _result(case: NodeCase, given: Arguments, expected: str) -> dict[str, Any]:
    try:
        return call(case, given)
    except Nonconforming as error:
        raise case.error(expected, error.found, REMEDY) from error


def _one_entry(case: NodeCase, given: Arguments, name: str, values: list[Any]) -> None:
    try:
        call(case, given.with_port(name, values))
    except Nonconforming as error:
        if isinstance(error.__cause__, ValueError):  # said by the node: its ports do not go together
            return
        raise case.error(
            f"a result for one entry at port '{name}', or a ValueError that says why not",
            error.found,
            "do not take for granted that there are two entries",
        ) from error

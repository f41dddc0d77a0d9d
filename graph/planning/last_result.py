"""Calls that return their last result as long as their arguments are the same objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import wraps
from typing import Any

from guidegraph.graph.ir import Call


def cache_last_result(call: Call) -> Call:
    """The call of a pure node that computes again only if its arguments differ from those of the last call.

    A loop-invariant value that only some iterations need is so computed in the first of them.
    """
    function = call.spec.function
    arguments: list[Any] = []
    result: list[Any] = []

    @wraps(function)
    def run(*args: Any, **by_name: Any) -> Any:
        new_arguments = [*_flatten((*args, *by_name.values()))]
        if (
            not result
            or len(new_arguments) != len(arguments)
            or any(a is not b for a, b in zip(new_arguments, arguments, strict=True))
        ):
            result[:] = [function(*args, **by_name)]
            arguments[:] = new_arguments
        return result[0]

    run.keeps_last_result = True  # type: ignore[attr-defined]
    return replace(call, spec=replace(call.spec, function=run))


def keeps_last_result(call: Call) -> bool:
    """Whether a call is one that ``cache_last_result`` made."""
    return getattr(call.spec.function, "keeps_last_result", False)


def _flatten(values: Iterable[Any]) -> Iterator[Any]:
    """The values with lists of links flattened."""
    for value in values:
        if isinstance(value, list):
            yield from (len(value), *value)
        else:
            yield value

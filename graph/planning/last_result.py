"""Calls that return their last result as long as their arguments are the same objects."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import wraps
from typing import Any

from guidegraph.graph.ir import Call


def cache_last_result(call: Call) -> Call:
    """The call of a pure node that computes again only if its arguments differ from those of the last call.

    A loop-invariant value that only some iterations need is therefore computed in the first of them.
    """
    function = call.spec.function
    last: tuple[list[Any], Any] | None = None  # the arguments and the result, set at once: threads may run one plan

    @wraps(function)
    def run(*args: Any, **by_name: Any) -> Any:
        nonlocal last
        arguments = [*_flatten((*args, *by_name.values()))]
        kept = last
        if kept is None or len(kept[0]) != len(arguments) or not all(map(operator.is_, kept[0], arguments)):
            kept = last = (arguments, function(*args, **by_name))
        return kept[1]

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

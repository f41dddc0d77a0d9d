"""The bounds of a number in `bundle.json`: `low` or `above`, and `high` or `below`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from guidegraph_runtime.bundle.strict_json import Cursor
from guidegraph_runtime.declare.settings import Range

_NAMES = ("low", "above", "high", "below")


def read_bounds(cursor: Cursor, kind: str) -> Range:
    """The bounds of an input of type `kind`. Raises ``BundleError``."""
    if kind not in ("int", "float"):
        cursor.fail("bounds of numbers only", f"an input of type {kind}")
    fields = cursor.fields((), _NAMES)
    for bound in fields.values():
        bound.number()
    if not fields:
        cursor.fail(f"one or more of {', '.join(_NAMES)}")
    return Range(**{name: bound.value for name, bound in fields.items()})


def plain_bounds(bounds: Range) -> dict[str, float]:
    """The entry of `bundle.json` that `read_bounds` reads."""
    return {name: bound for name, bound in asdict(bounds).items() if bound is not None}


def intersect_bounds(bounds: Iterable[Range]) -> Range:
    """The bounds of the numbers that are in all ranges."""
    entries = [plain_bounds(entry) for entry in bounds]
    by_name = {name: [entry[name] for entry in entries if name in entry] for name in _NAMES}
    return Range(
        **{name: (max if name in ("low", "above") else min)(values) for name, values in by_name.items() if values}
    )

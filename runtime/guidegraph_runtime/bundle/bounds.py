"""The bounds of a number in `bundle.json`: `low` or `above`, and `high` or `below`."""

from __future__ import annotations

from collections.abc import Iterable

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
    return {name: bound for name, bound in bounds._asdict().items() if bound is not None}


def parse_bounds(name: str, value: object) -> Range:
    """The bounds of a part's input. Raises ``ValueError`` for anything but numbers under their names."""
    fields = value if isinstance(value, dict) else {}
    numbers = [item for item in fields.values() if isinstance(item, (int, float)) and not isinstance(item, bool)]
    if not fields or not fields.keys() <= {*_NAMES} or len(numbers) != len(fields):
        raise ValueError(f"the bounds of '{name}': expected numbers for {', '.join(_NAMES)}; found {value!r:.80}")
    return Range(**fields)


def intersect_bounds(bounds: Iterable[Range]) -> Range:
    """The bounds of the numbers that are in all ranges: at most one at each end."""
    entries = [plain_bounds(entry) for entry in bounds]
    by_name = {name: [entry[name] for entry in entries if name in entry] for name in _NAMES}
    ends = {name: (max if name in ("low", "above") else min)(values) for name, values in by_name.items() if values}
    if "low" in ends and "above" in ends:
        del ends["low" if ends["above"] >= ends["low"] else "above"]
    if "high" in ends and "below" in ends:
        del ends["high" if ends["below"] <= ends["high"] else "below"]
    return Range(**ends)

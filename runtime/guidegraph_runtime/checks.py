"""Checks of settings and ports: each returns the value, or raises ``ValueError`` with the actual value.

Tables with named columns: as structured arrays, which a run returns and a reference run stores, and as lists.

A structured array (R) has a field for each column. Numbers without a value are NaN there, and texts without one are
empty; as lists, both are None.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.errors import SettingError

_MAX_SHOWN = 80


def check_int(name: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """Check for an integer from `low` to `high`; NumPy integers are accepted, bools are not."""
    try:
        integer = None if is_flag(value) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        integer = None
    if integer is None or (low is not None and integer < low) or (high is not None and integer > high):
        raise _mismatch(name, f"a whole number{describe_range(low, None, high, None)}", value)
    return integer


def check_number(
    name: str,
    value: object,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
) -> float:
    """Check for a number from `low`, or above `above`, to `high`, or below `below`; bools and NaN are refused."""
    is_scalar = isinstance(value, (int, float, np.number, np.ndarray)) and np.ndim(value) == 0
    if is_scalar and not is_flag(value) and np.asarray(value).dtype.kind in "iuf":
        result = float(value)  # type: ignore[arg-type]
        above_minimum = (low is None or result >= low) and (above is None or result > above)
        below_maximum = (high is None or result <= high) and (below is None or result < below)
        if above_minimum and below_maximum and not math.isnan(result):
            return result
    raise _mismatch(name, f"a number{describe_range(low, above, high, below)}", value)


def check_flag(name: str, value: object) -> bool:
    """Check for true or false."""
    if not is_flag(value):
        raise _mismatch(name, "true or false", value)
    return bool(value)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Check for one of some words."""
    if not isinstance(value, str) or value not in choices:
        raise _mismatch(name, f"one of {', '.join(choices)}", value)
    return value


def check_texts(name: str, value: object) -> list[str]:
    """Check for a text or a sequence of texts; return a list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value):
        return list(value)
    raise _mismatch(name, "a text or a list of texts", value)


def check_sides(name: str, value: object) -> tuple[int, int]:
    """Check for a side, or [height, width]; return (height, width)."""
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return check_int(f"{name}[0]", value[0], low=1), check_int(f"{name}[1]", value[1], low=1)
    if isinstance(value, (list, tuple)):
        raise _mismatch(name, "a side in pixels, or [height, width]", value)
    side = check_int(name, value, low=1)
    return side, side


def check_file(name: str, value: object) -> Path | bytes:
    """Check for a file: its path, or its contents as bytes.

    A path must be a ``Path``, never text: a bundle's plan holds only text, so it cannot name a file of the machine.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, os.PathLike) or not os.fspath(value):
        raise _mismatch(name, "a file given by the user, as a Path, or its bytes", value)
    return Path(value)


def check_array(name: str, value: object, axes: str, kinds: str = "iuf") -> NDArray[Any]:
    """Check for a NumPy array with the axes of `axes`, such as "(B, C, H, W)"; kinds: the allowed dtype kinds."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.ndim != axes.count(",") + 1:
        raise _mismatch(name, f"an array {axes}", value)
    return value


def check_fields(name: str, value: object, *needed: str) -> Mapping[str, Any]:
    """Check for a structured value: a mapping that has the fields `needed`."""
    if not isinstance(value, Mapping):
        raise _mismatch(name, f"the fields {', '.join(needed)}", value)
    if missing := [field for field in needed if field not in value]:
        raise ValueError(f"{name}: expected the fields {', '.join(needed)}; {', '.join(missing)} is missing")
    return value


def check_same_axes(names: str, *arrays: NDArray[Any]) -> None:
    """Check that arrays have the same axes after a leading one of B or 1. names: "x0 and noise"."""
    batch = max(item.shape[0] for item in arrays)
    size = arrays[0].shape[1:]
    if any(item.shape[1:] != size or item.shape[0] not in (1, batch) for item in arrays):
        shapes = " and ".join(str(item.shape) for item in arrays)
        raise ValueError(f"{names} must be of one size, and of one batch or one for all; found shapes {shapes}")


def is_flag(value: object) -> bool:
    """Whether a value is true or false, of Python or of NumPy."""
    return isinstance(value, (bool, np.bool_)) or (
        isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind == "b"
    )


def describe_range(low: float | None, above: float | None, high: float | None, below: float | None) -> str:
    """The bounds of a number in words, to follow its type."""
    start = f" of at least {low}" if low is not None else f" above {above}" if above is not None else ""
    if high is None and below is None:
        return start
    end = f"below {below}" if high is None else f"at most {high}"
    return f"{start} and {end}" if start else f" {end}" if high is None else f" of {end}"


def _mismatch(name: str, expected: str, value: object) -> SettingError:
    if isinstance(value, np.ndarray) and value.ndim:
        description = f"an array {value.shape} of {value.dtype}"
    else:
        text = repr(value)
        description = f"{type(value).__name__} {text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + '…'}"
    return SettingError(name.partition("[")[0], f"{name}: expected {expected}; found {description}")


def make_table(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> NDArray[Any]:
    """A structured array (R) of columns with R cells each: texts, integers, floats or flags, or None."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        if isinstance(column, np.ndarray):
            arrays[name] = column
            continue
        is_text = all(cell is None or isinstance(cell, str) for cell in column)
        cells = [("" if is_text else np.nan) if cell is None else cell for cell in column]
        arrays[name] = np.array(cells, dtype=str if is_text else None)
    count = max(map(len, arrays.values()), default=0)
    table = np.zeros(count, dtype=[(name, array.dtype) for name, array in arrays.items()])
    for name, array in arrays.items():
        table[name] = array
    return table


def list_columns(table: NDArray[Any]) -> dict[str, list[Any]]:
    """The columns of a structured array (R) by name, with None for cells without a value."""
    columns = {name: table[name].tolist() for name in table.dtype.names or ()}
    return {name: [None if cell == "" or cell != cell else cell for cell in cells] for name, cells in columns.items()}

"""What a setting or a port takes: each check gives the value back, or raises ``ValueError`` that says what it found."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHOWN = 80


def whole(name: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """A whole number from `low` to `high`; NumPy's count, a bool does not."""
    try:
        found = None if _is_flag(value) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = None
    if found is None or (low is not None and found < low) or (high is not None and found > high):
        raise _unfit(name, f"a whole number{_range(low, None, high)}", value)
    return found


def number(
    name: str, value: object, *, low: float | None = None, above: float | None = None, high: float | None = None
) -> float:
    """A number of at least `low`, or above `above`, and at most `high`; whole ones count, a bool and NaN do not."""
    single = isinstance(value, (int, float, np.number, np.ndarray)) and np.ndim(value) == 0
    if single and not _is_flag(value) and np.asarray(value).dtype.kind in "iuf":
        found = float(value)  # type: ignore[arg-type]
        enough = (low is None or found >= low) and (above is None or found > above)
        if enough and (high is None or found <= high) and not math.isnan(found):
            return found
    raise _unfit(name, f"a number{_range(low, above, high)}", value)


def flag(name: str, value: object) -> bool:
    """True or false."""
    if not _is_flag(value):
        raise _unfit(name, "true or false", value)
    return bool(value)


def choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in choices:
        raise _unfit(name, f"one of {', '.join(choices)}", value)
    return value


def texts(name: str, value: object) -> list[str]:
    """One text or a sequence of texts, as a list."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value):
        return list(value)
    raise _unfit(name, "a text or a list of texts", value)


def sides(name: str, value: object) -> tuple[int, int]:
    """Height and width: a side for both, or two numbers."""
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return whole(f"{name}[0]", value[0], low=1), whole(f"{name}[1]", value[1], low=1)
    if isinstance(value, (list, tuple)):
        raise _unfit(name, "a side in pixels, or [height, width]", value)
    side = whole(name, value, low=1)
    return side, side


def file_given(name: str, value: object) -> Path | bytes:
    """A file: its path, or the bytes that are in it.

    A path is a ``Path``, never text: a bundle's plan holds text alone, so that it cannot name a file of the machine.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if not isinstance(value, os.PathLike) or not os.fspath(value):
        raise _unfit(name, "a file that the person gives, as a Path, or the bytes of one", value)
    return Path(value)


def array(name: str, value: object, axes: str, kinds: str = "iuf") -> NDArray[Any]:
    """A NumPy array with as many axes as `axes`, such as "(B, C, H, W)", has names; `kinds` are of NumPy's dtypes."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.ndim != axes.count(",") + 1:
        raise _unfit(name, f"an array {axes}", value)
    return value


def fields(name: str, value: object, *needed: str) -> Mapping[str, Any]:
    """A structured value as a mapping that has the fields `needed`."""
    if not isinstance(value, Mapping):
        raise _unfit(name, f"the fields {', '.join(needed)}", value)
    if missing := [field for field in needed if field not in value]:
        raise ValueError(f"{name}: expected the fields {', '.join(needed)}; {', '.join(missing)} is not there")
    return value


def alike(what: str, *arrays: NDArray[Any], start: int = 1) -> None:
    """Arrays have the same axes from `start` on, and the leading axis B or 1; `what` they are: "x0 and noise"."""
    batch = max(one.shape[0] for one in arrays)
    size = arrays[0].shape[start:]
    if any(one.shape[start:] != size or one.shape[0] not in (1, batch) for one in arrays):
        found = " and ".join(str(one.shape) for one in arrays)
        raise ValueError(f"{what} must be of one size, and of one batch or one for all; found shapes {found}")


def _is_flag(value: object) -> bool:
    return isinstance(value, (bool, np.bool_)) or (
        isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind == "b"
    )


def _range(low: float | None, above: float | None, high: float | None) -> str:
    start = f" of at least {low}" if low is not None else f" above {above}" if above is not None else ""
    return start + (f" and at most {high}" if high is not None else "")


def _unfit(name: str, expected: str, value: object) -> ValueError:
    if isinstance(value, np.ndarray) and value.ndim:
        found = f"an array {value.shape} of {value.dtype}"
    else:
        text = repr(value)
        found = f"{type(value).__name__} {text if len(text) <= _SHOWN else text[:_SHOWN] + '…'}"
    return ValueError(f"{name}: expected {expected}; found {found}")

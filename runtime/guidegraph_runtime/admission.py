"""Checks before a run, shared by the engine, bundles and single files.

Each check returns ``None``, or a message with the expected value, the actual one and a remedy. The caller adds the
location.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

from guidegraph_runtime.machine.memory import machine_memory, show_size
from guidegraph_runtime.printing import show_count

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class ShapeOnly:
    """The shape and item size of a value that has not been computed."""

    shape: Shape
    itemsize: int = 4

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.itemsize


@dataclass(frozen=True)
class SampleCount:
    """The number of samples that a value is for (its leading axis) and its source, such as "'prompt' (2 values)".

    param: the input that is the source, "" if it is none.
    """

    count: int
    source: str
    param: str = ""


def find_batch_problem(samples: SampleCount, counts: Iterable[SampleCount]) -> str | None:
    """Check that each value has one row for all samples, or one row per sample.

    Samples are never repeated to fill a batch: picture i of seed s is the picture of seed s + i, and a repeated sample
    would give a picture that no seed gives.
    """
    rows = find_mismatch(samples, counts)
    return None if rows is None else describe_mismatch(samples, rows)


def find_mismatch(samples: SampleCount, counts: Iterable[SampleCount]) -> SampleCount | None:
    """The first value that has neither one row for all samples nor one per sample; None if all have."""
    return next((rows for rows in counts if rows.count not in {1, samples.count} - {0}), None)


def describe_mismatch(samples: SampleCount, rows: SampleCount) -> str:
    """The message about a value that `find_mismatch` returned."""
    if rows.count == 0:
        return f"{rows.source} is for no sample: give one for all samples, or one for each"
    return (
        f"{rows.source} is for {show_count(rows.count, 'sample')} and {samples.source} makes "
        f"{samples.count}: give one for all samples or one for each, or make the batch {rows.count}"
    )


def find_common_batch(names: str, *counts: int) -> int:
    """Return the common number of samples of values that each have one row for all samples, or one per sample.

    names: the values, for the message ("x0 and noise"). Raises ``ValueError`` if the counts do not agree.
    """
    largest = max(counts)
    if any(count not in (1, largest) for count in counts):
        sizes = " and ".join(map(str, counts))
        raise ValueError(f"{names} must be of one batch, or one for all; found {sizes} samples")
    return largest


def find_number_problem(value: object, *, infinite: bool = False) -> str | None:
    """Check that numbers are finite, also in lists, tables and arrays. infinite: allow infinities, but never NaN."""
    if hasattr(value, "dtype"):
        import numpy as np

        array = np.asarray(value)
        if array.dtype.kind not in "fc" or np.isfinite(array).all():
            return None
        if array.ndim == 0:
            return find_number_problem(float(array.real), infinite=infinite)
        if nan_count := int(np.isnan(array).sum()):
            return f"expected numbers; found nan in {nan_count} of {array.size} elements"
        return None if infinite else "expected finite numbers; found infinities"
    if isinstance(value, float):
        if math.isnan(value):
            return "expected a number; found nan"
        return f"expected a finite number; found {float(value)}" if math.isinf(value) and not infinite else None
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        try:
            problems = (find_number_problem(item, infinite=infinite) for item in value)
            return next((problem for problem in problems if problem is not None), None)
        except RecursionError:
            return "its lists have too many levels"
    return None


def is_infinite(value: object) -> bool:
    """Whether a default is infinite, so that the setting accepts infinities."""
    return isinstance(value, float) and math.isinf(value)


def find_memory_problem(values: Sequence[ShapeOnly], limit: int | None = None) -> str | None:
    """Check that values needed at once fit into memory. limit: bytes; by default the memory of the machine."""
    limit = machine_memory() if limit is None else limit
    total = sum(value.nbytes for value in values)
    if limit is None or total <= limit:
        return None
    largest = max(values, key=lambda value: value.nbytes)
    shape = " × ".join(map(str, largest.shape))
    return (
        f"it would take at least {show_size(total)} ({shape} numbers), and this machine has {show_size(limit)} "
        "of memory: ask for a smaller batch or size"
    )


def find_multiple_problem(shape: Shape, axes: Sequence[int], factor: int) -> str | None:
    """Check that the sides of a sample are multiples of the factor that its network needs."""
    if all(shape[axis] % factor == 0 for axis in axes):
        return None
    near = " × ".join(str(max(round(shape[axis] / factor), 1) * factor) for axis in axes)
    sides = " × ".join(str(shape[axis]) for axis in axes)
    return f"expected sides that are multiples of {factor}; found {sides}: make them {near}, say"


def count_rows(value: Any) -> int | None:
    """The rows of a value: the length of a list or the leading axis of an array; None for a scalar."""
    if isinstance(value, (list, tuple)):
        return len(value)
    shape: Any = getattr(value, "shape", ())
    return int(shape[0]) if len(shape) else None

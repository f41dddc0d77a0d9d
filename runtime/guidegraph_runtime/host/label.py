"""Class labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guidegraph_runtime.checks import whole
from guidegraph_runtime.host.operation import operation
from guidegraph_runtime.limits import check_limit

LARGEST = 2**63 - 1


def constant_shape(label: Any, batch: Any) -> tuple[int, ...]:
    """The shape of what `label.constant` makes. Raises ``ValueError`` for labels that are not as many as `batch`."""
    count = None if batch is None else whole("batch", batch, low=1)
    if not isinstance(label, (list, tuple)) and not (isinstance(label, np.ndarray) and label.ndim):
        return (count or 1,)
    if not len(label):
        raise ValueError("label: expected one label or more; found an empty list")
    if count is not None and len(label) != count:
        raise ValueError(
            f"{len(label)} labels do not make a batch of {count}: give one label, or a list with one for each picture"
        )
    return (len(label),)


@operation("label.constant", shape=constant_shape)
def constant(*, label: int | Sequence[int], batch: int | None = None, classes: int | None = None) -> NDArray[np.int64]:
    """Class indices as a label (B), int64: one number for all `batch` samples (or for 1), or a sequence with one each.

    classes: how many there are. Without it the null class, whose index is that number, is a label as well.
    Raises an error where the labels are not as many as `batch`, and for a label that is no class.
    """
    (count,) = constant_shape(label, batch)
    check_limit("elements", count, f"a batch of {count:,} labels")
    if isinstance(label, (list, tuple)) or (isinstance(label, np.ndarray) and label.ndim):
        labels = [whole(f"label[{i}]", one, low=0, high=LARGEST) for i, one in enumerate(label)]
    else:
        labels = [whole("label", label, low=0, high=LARGEST)] * count
    if classes is not None and max(labels) >= whole("classes", classes, low=1):
        raise ValueError(f"the classes are 0 … {classes - 1}; found label {max(labels)}")
    return np.array(labels, dtype=np.int64)


def cycle_shape(batch: Any) -> tuple[int, ...]:
    """The shape of what `label.cycle` makes."""
    return (whole("batch", batch, low=1),)


@operation("label.cycle", shape=cycle_shape)
def cycle(*, classes: int, batch: int = 1, start: int = 0) -> NDArray[np.int64]:
    """Labels (batch), int64, that go round the classes: start, start + 1, …, classes − 1, 0, …"""
    check_limit("elements", whole("batch", batch, low=1), f"a batch of {batch:,} labels")
    classes, first = whole("classes", classes, low=1), whole("start", start, low=0, high=LARGEST)
    return (np.arange(whole("batch", batch, low=1), dtype=np.int64) + first % classes) % classes

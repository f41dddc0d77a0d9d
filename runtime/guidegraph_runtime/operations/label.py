"""Class labels."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

import numpy as np

from guidegraph_runtime.checks import check_int
from guidegraph_runtime.declare.operation import operation
from guidegraph_runtime.declare.settings import Count, Label, NotEmpty, Range
from guidegraph_runtime.errors import SettingError
from guidegraph_runtime.limits import check_limit

MAX_LABEL = 2**63 - 1
Class: TypeAlias = Annotated[int, Range(low=0, below=2**63)]


def constant_shape(label: Any, batch: Any) -> tuple[int, ...]:
    """The shape of the result of `label.constant`. Raises ``ValueError`` if the number of labels is not `batch`."""
    count = None if batch is None else check_int("batch", batch, low=1)
    if not isinstance(label, (list, tuple)) and not (isinstance(label, np.ndarray) and label.ndim):
        return (count or 1,)
    if not len(label):
        raise SettingError("label", "label: expected one label or more; found an empty list")
    if count is not None and len(label) != count:
        raise SettingError(
            "label",
            f"{len(label)} labels do not make a batch of {count}: give one label, or a list with one for each picture",
        )
    return (len(label),)


@operation("label.constant", shape=constant_shape, output_help="class indices", copies="label")
def constant(
    *, label: Class | Annotated[list[Class], NotEmpty()], batch: Count | None = None, classes: Count | None = None
) -> Label:
    """Class indices as a label (B), int64: one number for all ``batch`` samples (or for 1), or a list with one each.

    classes: the number of classes. Without it, the null class, whose index is that number, is allowed too.
    Raises an error for a list of another length than ``batch``, and for a label outside the classes.
    """
    (count,) = constant_shape(label, batch)
    check_limit("elements", count, f"a batch of {count:,} labels")
    if isinstance(label, (list, tuple)) or (isinstance(label, np.ndarray) and label.ndim):
        labels = [check_int(f"label[{i}]", item, low=0, high=MAX_LABEL) for i, item in enumerate(label)]
    else:
        labels = [check_int("label", label, low=0, high=MAX_LABEL)] * count
    if classes is not None and max(labels) >= classes:
        raise SettingError("label", f"the classes are 0 … {classes - 1}; found label {max(labels)}")
    return np.array(labels, dtype=np.int64)


def cycle_shape(batch: Any) -> tuple[int, ...]:
    """The shape of the result of `label.cycle`."""
    return (check_int("batch", batch, low=1),)


@operation("label.cycle", shape=cycle_shape, output_help="class indices")
def cycle(*, classes: Count, batch: Count = 1, start: Class = 0) -> Label:
    """Labels (batch) that cycle through the classes: start, start + 1, …, classes − 1, 0, …"""
    check_limit("elements", batch, f"a batch of {batch:,} labels")
    return (np.arange(batch, dtype=np.int64) + start % classes) % classes
